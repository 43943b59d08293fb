// A team of threads that run one function side by side and meet at barriers every few microseconds:
// what the whole-network step needs. PyTorch's pool (parallel.h) has no barrier, and its members
// cannot be told apart.
#pragma once

namespace gdext::cpu {

class Crew;

// One thread of a team.
class Member {
 public:
  const int index;  // 0 to size - 1; 0 is the caller's own thread
  const int size;

  // Returns once every member has called it; what each wrote before is then seen by all.
  void barrier() {
    if (size > 1) meet();
  }

 private:
  friend class Crew;
  friend void run_team_raw(int, void (*)(const void*, Member&), const void*);
  Member(int index, int size, Crew* crew) : index(index), size(size), crew_(crew) {}
  void meet();

  Crew* crew_;
};

void run_team_raw(int size, void (*body)(const void* context, Member&), const void* context);

// Calls body(Member&) on `size` >= 1 threads at once and returns when all are done. All members
// must reach the same barriers; body must not throw. The threads are kept for the next call, and
// any number of threads may call at the same time, each with a team of its own, also after a fork.
// Throws std::system_error, before body is called, where no more threads can be started.
template <class F>
void run_team(int size, const F& body) {
  run_team_raw(
      size, [](const void* context, Member& member) { (*static_cast<const F*>(context))(member); },
      &body);
}

}  // namespace gdext::cpu
