// Times whole calls of the native executor without Python. This is the program to profile:
//
//   inner_loop_bench [workload [threads [calls [pause]]]]
//
// With a pause of so many microseconds between calls, as Python makes one, threads have gone to
// sleep when the next call comes.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cpu/cpu_features.h"
#include "workloads.h"

namespace {

using namespace fastmaml;

void time_calls(const Workload& w, int threads, int calls, int pause) {
  using Clock = std::chrono::steady_clock;
  const Problem problem(w);
  problem.run(threads);
  std::vector<double> seconds;
  for (int call = 0; call < calls; ++call) {
    const auto awake = Clock::now() + std::chrono::microseconds(pause);
    while (Clock::now() < awake) continue;
    const auto start = Clock::now();
    problem.run(threads);
    const auto end = Clock::now();
    seconds.push_back(std::chrono::duration<double>(end - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  std::printf("%-11s %d threads   shortest %9.1f us   median %9.1f us\n", w.name, threads,
              1e6 * seconds.front(), 1e6 * seconds[seconds.size() / 2]);
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 2 ? std::atoi(argv[2]) : 1;
  std::printf("instruction set %s\n", isa_name(selected_isa()));
  for (const Workload& w : workloads) {
    if (argc > 1 && std::strcmp(argv[1], w.name) != 0) continue;
    const int calls = argc > 3 ? std::atoi(argv[3]) : 30;
    time_calls(w, threads, calls, argc > 4 ? std::atoi(argv[4]) : 0);
  }
}
