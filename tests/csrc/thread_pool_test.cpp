// run_parallel: every index once, all at the same time, for many callers, nested, and after fork.
#include "cpu/thread_pool.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "check.h"

namespace {

using fastmaml::run_parallel;

// Runs f(index) for index < threads.
template <class F>
void parallel(int threads, F f) {
  run_parallel(threads, [](void* f, int index) { (*static_cast<F*>(f))(index); }, &f);
}

// Each index waits until all have come, so this ends only if all run at once.
bool all_meet(int threads) {
  std::atomic<int> arrived{0};
  std::vector<int> calls(threads);
  parallel(threads, [&](int index) {
    ++calls[index];
    ++arrived;
    while (arrived < threads) sched_yield();
  });
  return calls == std::vector<int>(threads, 1);
}

void check_one_caller() {
  for (int threads = 1; threads <= 7; ++threads) {
    for (int repeat = 0; repeat < 50; ++repeat) CHECK(all_meet(threads));
  }
}

void check_index_0_is_the_caller() {
  const std::thread::id caller = std::this_thread::get_id();
  std::vector<std::thread::id> ids(3);
  parallel(3, [&](int index) { ids[index] = std::this_thread::get_id(); });
  CHECK(ids[0] == caller);
  CHECK(ids[1] != caller && ids[2] != caller && ids[1] != ids[2]);
}

void check_writes_are_seen() {
  std::vector<int> numbers(4);
  for (int round = 1; round <= 200; ++round) {
    parallel(4, [&](int index) { numbers[index] += index; });
  }
  CHECK((numbers == std::vector<int>{0, 200, 400, 600}));
}

void check_many_callers() {
  std::atomic<int> met{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 50; ++repeat) met += all_meet(3);
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(met == 4 * 50);
}

// Whether a run finds them on their way, spinning, about to park again or parked.
void check_roused() {
  std::atomic<int> met{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&, caller] {
      for (int repeat = 0; repeat < 60; ++repeat) {
        fastmaml::rouse();
        std::this_thread::sleep_for(std::chrono::microseconds(repeat * 7 * caller));
        met += all_meet(3);
        fastmaml::rouse();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(met == 3 * 60);
}

void check_nested() {
  std::atomic<int> met{0};
  parallel(3, [&](int) { met += all_meet(2); });
  CHECK(met == 3);
}

void check_fork() {
  CHECK(all_meet(3));  // the parent's pool holds threads that the child will not have
  fastmaml::rouse();
  const pid_t child = fork();
  if (child == 0) {
    fastmaml::rouse();
    const bool met = all_meet(3) && all_meet(4);
    _exit(met ? 0 : 1);
  }
  int status = 1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(all_meet(3));
}

}  // namespace

int main() {
  check_one_caller();
  check_index_0_is_the_caller();
  check_writes_are_seen();
  check_many_callers();
  check_roused();
  check_nested();
  check_fork();
  return failed_checks != 0;
}
