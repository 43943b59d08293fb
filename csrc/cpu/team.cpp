#include "cpu/team.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <condition_variable>
#endif

namespace gdext::cpu {
namespace {

using Word = std::atomic<uint32_t>;

#if defined(__linux__)
static_assert(sizeof(Word) == 4 && Word::is_always_lock_free);

// Returns when woken, or at once if the word is no longer `old`; perhaps without reason.
void sleep_while(Word& word, uint32_t old) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
}
void wake_all(Word& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}
#else
std::mutex sleepers_mutex;
std::condition_variable sleepers;

void sleep_while(Word& word, uint32_t old) {
  std::unique_lock<std::mutex> lock(sleepers_mutex);
  if (word.load() == old) sleepers.wait(lock);
}
void wake_all(Word&) {
  std::lock_guard<std::mutex> lock(sleepers_mutex);
  sleepers.notify_all();
}
#endif

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A counter to wait on.
class Epoch {
 public:
  uint32_t now() const { return word_.load(std::memory_order_acquire); }

  void advance() {
    word_.fetch_add(1);
    if (asleep_.load() > 0) wake_all(word_);
  }

  // Returns once the counter is no longer `old`.
  void sleep(uint32_t old) {
    asleep_.fetch_add(1);
    while (word_.load() == old) sleep_while(word_, old);
    asleep_.fetch_sub(1);
  }

 private:
  alignas(64) Word word_{0};
  std::atomic<int> asleep_{0};
};

using Clock = std::chrono::steady_clock;

// A thread spins for this long before it sleeps: longer than a sleeping one takes to wake (some
// 50 us on a virtual machine), or two threads that have slept once would find each other late, and
// sleep, at every barrier from then on.
constexpr std::chrono::microseconds kSpin(100);
constexpr int kPausesBetweenLooksAtTheClock = 16;

// Members on one processor do not spin but sleep, so that the other can go on. Then there is never
// more than one of them ready to run when the system looks for threads to move to an idle
// processor, and they might stay there for ever: so they move by themselves, now and then.
constexpr std::chrono::milliseconds kBetweenMoves(400);

// Which processor a thread runs on; where the system does not tell, there is but kUnknown.
constexpr int kUnknown = -1;
using Processors = std::vector<std::atomic<int>>;  // of each member of a crew, as last seen

#if defined(__linux__)
int current_processor() { return sched_getcpu(); }

// Moves the calling thread, member `index` of a team of `size`, to a processor that no other member
// has.
void move_away(const Processors& processors, int index, int size) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  cpu_set_t others = allowed;
  for (int i = 0; i < size; ++i)
    if (i != index) CPU_CLR(processors[i].load(std::memory_order_relaxed), &others);
  if (CPU_COUNT(&others) == 0) return;
  sched_setaffinity(0, sizeof(others), &others);
  sched_setaffinity(0, sizeof(allowed), &allowed);
}
#else
int current_processor() { return kUnknown; }
void move_away(const Processors&, int, int) {}
#endif

}  // namespace

// The threads that one caller has at a time, and the barrier they share: enough of them for teams
// of up to `capacity` members.
class Crew {
 public:
  explicit Crew(int capacity)
      : capacity(capacity), processors_(capacity), next_move_(capacity), calls_(capacity) {
    for (auto& processor : processors_) processor.store(kUnknown);
  }

  const int capacity;

  // Starts the threads that a team of `size` needs and that are missing.
  void start(int size) {
    for (; started_ < size; ++started_) start_thread(started_);
  }

  void run(int size, void (*body)(const void*, Member&), const void* context) {
    size_ = size;
    body_ = body;
    context_ = context;
    for (int i = 1; i < size; ++i) calls_[i].advance();
    take_part(0);
  }

  // Ends the threads, the last of which frees the crew.
  void dismiss() {
    body_ = nullptr;
    staying_.store(started_);
    for (int i = 1; i < started_; ++i) calls_[i].advance();
    leave();
  }

  void meet(int index, int size) {
    const uint32_t meeting = meetings_.now();
    note_processor(index);
    if (arrived_.fetch_add(1) + 1 < size) {
      wait(meetings_, meeting, index, size);
      return;
    }
    arrived_.store(0, std::memory_order_relaxed);
    meetings_.advance();
  }

  Crew* next_idle = nullptr;

 private:
  void wait(Epoch& epoch, uint32_t old, int index, int size) {
    const auto begin = Clock::now();
    if (index > 0 && !alone_on_processor(index, size) && begin > next_move_[index]) {
      next_move_[index] = begin + kBetweenMoves;
      move_away(processors_, index, size);
      note_processor(index);
    }
    for (auto now = begin; now < begin + kSpin && alone_on_processor(index, size);
         now = Clock::now())
      for (int i = 0; i < kPausesBetweenLooksAtTheClock; ++i) {
        if (epoch.now() != old) return;
        pause_briefly();
      }
    epoch.sleep(old);
  }

  void note_processor(int index) {
    const int processor = current_processor();
    if (processors_[index].load(std::memory_order_relaxed) != processor)
      processors_[index].store(processor, std::memory_order_relaxed);
  }

  // Whether no other member of the team was last seen on this one's processor: that one could not
  // go on while this one spins. So it is once another process has taken a processor.
  bool alone_on_processor(int index, int size) const {
    const int processor = processors_[index].load(std::memory_order_relaxed);
    if (processor == kUnknown) return true;
    for (int i = 0; i < size; ++i)
      if (i != index && processors_[i].load(std::memory_order_relaxed) == processor) return false;
    return true;
  }

  // Returns the size of the team.
  int take_part(int index) {
    Member member(index, size_, this);
    body_(context_, member);
    meet(index, member.size);
    return member.size;
  }

  void leave() {
    if (staying_.fetch_sub(1) == 1) delete this;
  }

  void start_thread(int index) {
    // Signals are for the threads that the application knows, except those that a fault of the
    // thread's own raises.
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP}) sigdelset(&blocked, fault);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    try {
      std::thread([this, index] {
        int size = index + 1;  // of the team that this thread was in last
        for (uint32_t call = 0;; ++call) {
          wait(calls_[index], call, index, size);
          if (!body_) return leave();
          size = take_part(index);
        }
      }).detach();
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  int started_ = 1;  // the caller
  int size_ = 0;     // of the team at work; this and the next two are written while there is none
  void (*body_)(const void*, Member&) = nullptr;
  const void* context_ = nullptr;
  Processors processors_;                     // [capacity]
  std::vector<Clock::time_point> next_move_;  // [capacity] of each member, at the earliest
  std::vector<Epoch> calls_;                  // [capacity] of each member; the caller's is not used
  alignas(64) std::atomic<int> arrived_{0};
  Epoch meetings_;
  std::atomic<int> staying_{0};  // once the crew is dismissed: the threads that have yet to leave
};

namespace {

// Crews that no caller has. They and this list outlive main, since a caller may still be at work
// when the process ends (a daemon thread).
class IdleCrews {
 public:
  IdleCrews() {
    // In a forked process there are no threads but the one that forked: its crews are new.
    pthread_atfork([] { idle().mutex_.lock(); }, [] { idle().mutex_.unlock(); },
                   [] {
                     idle().first_ = nullptr;
                     idle().mutex_.unlock();
                   });
  }

  static IdleCrews& idle() {
    static IdleCrews* crews = new IdleCrews;
    return *crews;
  }

  // The smallest crew that is large enough. Where all are too small, a new one takes the place of
  // the largest: so there are never more crews than there have been callers at a time.
  Crew* take(int size) {
    Crew* crew = nullptr;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      Crew** best = nullptr;
      for (Crew** link = &first_; *link; link = &(*link)->next_idle)
        if (!best || fits_better((*link)->capacity, (*best)->capacity, size)) best = link;
      if (best) {
        crew = *best;
        *best = crew->next_idle;
      }
    }
    if (crew && crew->capacity >= size) return crew;
    if (crew) crew->dismiss();
    return new Crew(size);
  }

  void put(Crew* crew) {
    std::lock_guard<std::mutex> lock(mutex_);
    crew->next_idle = first_;
    first_ = crew;
  }

 private:
  static bool fits_better(int capacity, int other, int size) {
    if (other < size) return capacity > other;
    return capacity >= size && capacity < other;
  }

  std::mutex mutex_;
  Crew* first_ = nullptr;
};

}  // namespace

void Member::meet() { crew_->meet(index, size); }

void run_team_raw(int size, void (*body)(const void*, Member&), const void* context) {
  if (size == 1) {
    Member alone(0, 1, nullptr);
    body(context, alone);
    return;
  }
  struct Lease {
    Crew* const crew;
    explicit Lease(int size) : crew(IdleCrews::idle().take(size)) {}
    ~Lease() { IdleCrews::idle().put(crew); }
  } lease(size);
  lease.crew->start(size);
  lease.crew->run(size, body, context);
}

}  // namespace gdext::cpu
