// usage: team order|callers|crews|fork|exit     checks csrc/cpu/team.h
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "cpu/team.h"

namespace {

using gdext::cpu::Member;
using gdext::cpu::run_team;

std::atomic<long> checked{0}, failures{0};

void check(bool ok, const char* what, int size) {
  ++checked;
  if (!ok && ++failures < 10) printf("FAIL %s, in a team of %d\n", what, size);
}

// Each member writes its own number, and reads its neighbour's after the barrier.
void meet_often(int size, int rounds) {
  std::vector<int> round_of(size, 0);  // not atomic: the barrier alone orders
  std::vector<int> calls(size, 0);
  run_team(size, [&](Member& member) {
    ++calls[member.index];
    check(member.size == size, "size", size);
    for (int round = 1; round <= rounds; ++round) {
      round_of[member.index] = round;
      member.barrier();
      check(round_of[(member.index + 1) % size] == round, "barrier", size);
      member.barrier();
    }
  });
  for (int index = 0; index < size; ++index) check(calls[index] == 1, "call of each member", size);
}

// Few and many, more than there are processors too; sizes in turn, and a pause that lets all sleep.
void order() {
  for (int repeat = 0; repeat < 3; ++repeat) {
    for (int size : {1, 2, 3, 4, 7, 2, 1, 16}) meet_often(size, 50);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  meet_often(2, 5000);
}

// Several threads, each with a team; and teams inside teams.
void callers() {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([i] {
      for (int repeat = 0; repeat < 20; ++repeat) meet_often(1 + (i + repeat) % 4, 20);
    });
  for (std::thread& thread : threads) thread.join();
  run_team(3, [](Member& member) {
    meet_often(2, 20);
    member.barrier();
    meet_often(3, 20);
  });
}

int threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<int>(std::distance(begin(tasks), end(tasks)));
}

// Waits for threads that are on their way out; false if there are still other than `wanted`.
bool are_threads(int wanted) {
  for (int patience = 0; threads() != wanted && patience < 1000; ++patience)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  return threads() == wanted;
}

// One caller has one crew, whatever its sizes: larger ones take the place of smaller ones, and
// smaller teams are a part of them. Two callers at a time have two, of which the next one takes the
// smallest that is large enough.
void crews() {
  meet_often(2, 20);
  const int others = threads() - 1;  // the caller, and one that ThreadSanitizer has started by now
  for (int size : {2, 3, 5, 8, 2, 7, 3, 8, 4}) meet_often(size, 20);
  check(are_threads(others + 7), "threads of one caller", 8);
  run_team(6, [](Member& member) {
    if (member.index == 0) meet_often(3, 20);
  });
  check(are_threads(others + 7 + 2), "threads of a team in a team", 3);
  for (int size : {2, 3, 8, 2}) meet_often(size, 20);
  run_team(2, [](Member& member) {  // in the crew of 3, so that the one of 8 is free
    if (member.index == 0) meet_often(8, 20);
  });
  check(are_threads(others + 7 + 2), "threads of two callers", 8);
  run_team(8, [](Member& member) {
    if (member.index == 0) meet_often(4, 20);
  });
  check(are_threads(others + 7 + 3), "threads of a larger crew in the place of a smaller", 4);
}

// The parent's threads do not exist in a child; the child of a child too has its own.
void fork_and_check(int generations) {
  meet_often(3, 20);
  if (generations == 0) return;
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    fork_and_check(generations - 1);
    fflush(stdout);
    _exit(failures == 0 ? 0 : 1);
  }
  int status = 1;
  waitpid(child, &status, 0);
  check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a forked process", 3);
  meet_often(3, 20);
}

// main returns while another thread's team is at work, as a daemon thread's may be.
void exit_while_working() {
  static std::atomic<long> rounds{0};
  std::thread([] {
    run_team(3, [](Member& member) {
      for (;;) {
        member.barrier();
        ++rounds;
      }
    });
  }).detach();
  meet_often(2, 20);
  while (rounds < 1000) std::this_thread::yield();
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "order")
    order();
  else if (what == "callers")
    callers();
  else if (what == "crews")
    crews();
  else if (what == "fork")
    fork_and_check(2);
  else if (what == "exit")
    exit_while_working();
  else
    return fprintf(stderr, "usage: %s order|callers|crews|fork|exit\n", argv[0]), 2;
  printf("team, %s: %ld checks, %ld failures\n", what.c_str(), checked.load(), failures.load());
  return failures != 0;
}
