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
using Processors = std::vector<std::atomic<int>>;  // of each member of a team, as last seen

#if defined(__linux__)
int current_processor() { return sched_getcpu(); }

// Moves the calling thread, member `index`, to a processor that no other member has.
void move_away(const Processors& processors, int index) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  cpu_set_t others = allowed;
  for (int i = 0; i < static_cast<int>(processors.size()); ++i)
    if (i != index) CPU_CLR(processors[i].load(std::memory_order_relaxed), &others);
  if (CPU_COUNT(&others) == 0) return;
  sched_setaffinity(0, sizeof(others), &others);
  sched_setaffinity(0, sizeof(allowed), &allowed);
}
#else
int current_processor() { return kUnknown; }
void move_away(const Processors&, int) {}
#endif

}  // namespace

// The threads that one caller has at a time, and the barrier they share.
class Crew {
 public:
  explicit Crew(int size) : size(size), processors_(size), next_move_(size), calls_(size) {
    for (auto& processor : processors_) processor.store(kUnknown);
  }

  const int size;

  // Starts the threads that are missing.
  void start() {
    for (; started_ < size; ++started_) start_thread(started_);
  }

  void run(void (*body)(const void*, Member&), const void* context) {
    body_ = body;
    context_ = context;
    for (int i = 1; i < size; ++i) calls_[i].advance();
    take_part(0);
  }

  void meet(int index) {
    const uint32_t meeting = meetings_.now();
    note_processor(index);
    if (arrived_.fetch_add(1) + 1 < size) {
      wait(meetings_, meeting, index);
      return;
    }
    arrived_.store(0, std::memory_order_relaxed);
    meetings_.advance();
  }

  Crew* next_idle = nullptr;

 private:
  void wait(Epoch& epoch, uint32_t old, int index) {
    const auto begin = Clock::now();
    if (index > 0 && !alone_on_processor(index) && begin > next_move_[index]) {
      next_move_[index] = begin + kBetweenMoves;
      move_away(processors_, index);
      note_processor(index);
    }
    for (auto now = begin; now < begin + kSpin && alone_on_processor(index); now = Clock::now())
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

  // Whether no other member was last seen on this one's processor: that one could not go on while
  // this one spins. So it is once another process has taken a processor.
  bool alone_on_processor(int index) const {
    const int processor = processors_[index].load(std::memory_order_relaxed);
    if (processor == kUnknown) return true;
    for (int i = 0; i < size; ++i)
      if (i != index && processors_[i].load(std::memory_order_relaxed) == processor) return false;
    return true;
  }

  void take_part(int index) {
    Member member(index, size, this);
    body_(context_, member);
    meet(index);
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
        for (uint32_t call = 0;; ++call) {
          wait(calls_[index], call, index);
          take_part(index);
        }
      }).detach();
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  int started_ = 1;  // the caller
  void (*body_)(const void*, Member&) = nullptr;
  const void* context_ = nullptr;
  Processors processors_;                     // [size]
  std::vector<Clock::time_point> next_move_;  // [size] of each member, at the earliest
  std::vector<Epoch> calls_;                  // [size] of each member; the caller's is not used
  alignas(64) std::atomic<int> arrived_{0};
  Epoch meetings_;
};

namespace {

// Crews that no caller has. They are never freed: their threads wait until the process ends, and
// may still be at work then (a daemon thread's).
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

  Crew* take(int size) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (Crew** link = &first_; *link; link = &(*link)->next_idle)
      if ((*link)->size == size) {
        Crew* crew = *link;
        *link = crew->next_idle;
        return crew;
      }
    return new Crew(size);
  }

  void put(Crew* crew) {
    std::lock_guard<std::mutex> lock(mutex_);
    crew->next_idle = first_;
    first_ = crew;
  }

 private:
  std::mutex mutex_;
  Crew* first_ = nullptr;
};

}  // namespace

void Member::meet() { crew_->meet(index); }

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
  lease.crew->start();
  lease.crew->run(body, context);
}

}  // namespace gdext::cpu
