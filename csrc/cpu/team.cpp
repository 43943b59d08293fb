#include "cpu/team.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
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
  void wait(uint32_t old, std::chrono::nanoseconds spin) {
    const auto end = std::chrono::steady_clock::now() + spin;
    do {
      for (int i = 0; i < 32; ++i) {
        if (now() != old) return;
        pause_briefly();
      }
    } while (std::chrono::steady_clock::now() < end);
    asleep_.fetch_add(1);
    while (word_.load() == old) sleep_while(word_, old);
    asleep_.fetch_sub(1);
  }

 private:
  alignas(64) Word word_{0};
  std::atomic<int> asleep_{0};
};

constexpr std::chrono::microseconds kSpin(20);

}  // namespace

// The threads that one caller has at a time, and the barrier they share.
class Crew {
 public:
  void grow(int size) {
    while (static_cast<int>(workers_.size()) < size - 1) {
      auto worker = std::make_unique<Worker>();
      start_thread(*worker, static_cast<int>(workers_.size()) + 1);
      workers_.push_back(std::move(worker));
    }
  }

  void run(int size, void (*body)(const void*, Member&), const void* context) {
    size_ = size;
    body_ = body;
    context_ = context;
    for (int i = 1; i < size; ++i) workers_[i - 1]->calls.advance();
    take_part(0);
  }

  void meet(int size) {
    const uint32_t epoch = meetings_.now();
    if (arrived_.fetch_add(1) + 1 < size) {
      meetings_.wait(epoch, kSpin);
      return;
    }
    arrived_.store(0, std::memory_order_relaxed);
    meetings_.advance();
  }

  Crew* next_idle = nullptr;

 private:
  struct Worker {
    Epoch calls;
  };

  void take_part(int index) {
    Member member(index, size_, this);
    body_(context_, member);
    meet(member.size);
  }

  void start_thread(Worker& worker, int index) {
    // Signals are for the threads that the application knows, but for those that a fault of the
    // thread's own raises.
    sigset_t all, before;
    sigfillset(&all);
    for (int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP}) sigdelset(&all, fault);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      std::thread([this, &worker, index] {
        for (uint32_t calls = 0;; ++calls) {
          worker.calls.wait(calls, kSpin);
          take_part(index);
        }
      }).detach();
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  std::vector<std::unique_ptr<Worker>> workers_;
  int size_ = 0;
  void (*body_)(const void*, Member&) = nullptr;
  const void* context_ = nullptr;
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

  Crew* take() {
    std::lock_guard<std::mutex> lock(mutex_);
    Crew* crew = first_;
    if (!crew) return new Crew;
    first_ = crew->next_idle;
    return crew;
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

void Member::meet() { crew_->meet(size); }

void run_team_raw(int size, void (*body)(const void*, Member&), const void* context) {
  if (size == 1) {
    Member alone(0, 1, nullptr);
    body(context, alone);
    return;
  }
  struct Lease {
    Crew* crew = IdleCrews::idle().take();
    ~Lease() { IdleCrews::idle().put(crew); }
  } lease;
  lease.crew->grow(size);
  lease.crew->run(size, body, context);
}

}  // namespace gdext::cpu
