// usage: team_speed MICROSECONDS [HOGS [together]]
// Times a team of two (csrc/cpu/team.h) whose members work for so long between barriers, while that
// many other processes keep a processor busy. together: the members start on one processor, and
// have to find their way to another. Prints microseconds per barrier, work included.
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cpu/team.h"

namespace {

using Clock = std::chrono::steady_clock;
using gdext::cpu::Member;
using gdext::cpu::run_team;

double microseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

void work(long rounds) {
  volatile double x = 1;
  for (long i = 0; i < rounds; ++i) x = x * 1.0000001;
}

double rounds_per_microsecond() {
  constexpr long kRounds = 20 * 1000 * 1000;
  const auto begin = Clock::now();
  work(kRounds);
  return kRounds / microseconds_since(begin);
}

void put_on(const cpu_set_t& processors) { sched_setaffinity(0, sizeof(processors), &processors); }

void gather_on_one_processor() {
  cpu_set_t all, one;
  sched_getaffinity(0, sizeof(all), &all);
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  run_team(2, [&](Member& member) {
    put_on(one);
    member.barrier();
    put_on(all);
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return fprintf(stderr, "usage: %s MICROSECONDS [HOGS [together]]\n", argv[0]), 2;
  const double time = atof(argv[1]), seconds = 2;
  const long rounds = static_cast<long>(time * rounds_per_microsecond());
  std::vector<pid_t> hogs(argc > 2 ? atoi(argv[2]) : 0);
  for (pid_t& hog : hogs)
    if ((hog = fork()) == 0)
      for (;;) work(rounds);
  if (argc > 3) gather_on_one_processor();

  const long barriers = static_cast<long>(seconds * 1e6 / (time + 1));
  const auto begin = Clock::now();
  run_team(2, [&](Member& member) {
    for (long i = 0; i < barriers; ++i) {
      work(rounds);
      member.barrier();
    }
  });
  printf("%.2f\n", microseconds_since(begin) / static_cast<double>(barriers));
  for (pid_t hog : hogs) kill(hog, SIGKILL);
}
