// How well the executor chooses between tasks one by one and tasks in lockstep: times a sweep of
// small networks both ways on one thread, and compares the faster way with the one that is chosen.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "cpu/cpu_features.h"
#include "cpu/kernels.h"
#include "cpu/lockstep_cost.h"
#include "workloads.h"

namespace {

using namespace fastmaml;

double seconds_of_a_call(const Problem& problem) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  problem.run(1);
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Microseconds a task, one by one and in lockstep: the least of several calls of each, in turns.
struct Times {
  double one_by_one = 1e30, in_lockstep = 1e30;

  explicit Times(const Workload& w) {
    const Problem problem(w);
    double spent = 0;
    for (int round = 0; round < 40 && (round < 3 || spent < 0.1); ++round) {
      for (double* best : {&one_by_one, &in_lockstep}) {
        setenv("FASTMAML_LOCKSTEP", best == &in_lockstep ? "1" : "0", 1);
        const double seconds = seconds_of_a_call(problem);
        *best = std::min(*best, seconds * 1e6 / w.tasks);
        spent += seconds;
      }
    }
  }
};

bool pays(const Workload& w) {
  const Problem problem(w);
  const CallOwner<float> owner(problem.program(), problem.call(), problem.addresses(), 0);
  return lockstep_pays(owner.call(), kernels<float>().width, 1);
}

}  // namespace

int main() {
  std::printf("instruction set %s\n", isa_name(selected_isa()));
  std::printf("%28s %10s %10s %7s %7s\n", "", "one by one", "lockstep", "gain", "chosen");
  int points = 0, within = 0;
  double worst = 1;
  const int width = kernels<float>().width;
  for (const int64_t hidden : {4, 8, 16, 24, 32, 40, 64, 96, 128, 200}) {
    for (const int64_t samples : {1, 5, 10, 25, 50, 100, 200}) {
      for (const int64_t inputs : {1, 20, 100}) {
        for (const int64_t steps : {1, 5}) {
          if (hidden * hidden * samples * steps > 4'000'000) continue;
          const Workload w{
              "",   {inputs, hidden, hidden, 5}, "relu", "mse", 4 * width, steps, samples, samples,
              0.01f};
          const Times t(w);
          const bool is_chosen = pays(w);
          const double chosen = is_chosen ? t.in_lockstep : t.one_by_one;
          const double loss = chosen / std::min(t.one_by_one, t.in_lockstep);
          ++points;
          within += loss <= 1.1;
          worst = std::max(worst, loss);
          std::printf("%4ld-%3ld-%3ld-5 n %3ld steps %2ld %10.2f %10.2f %7.2f %7s%s\n", inputs,
                      hidden, hidden, samples, steps, t.one_by_one, t.in_lockstep,
                      t.one_by_one / t.in_lockstep, is_chosen ? "yes" : "no",
                      loss > 1.1 ? " *" : "");
        }
      }
    }
  }
  std::printf(
      "the choice is within 10%% of the better one at %d of %d points; at worst %.2f times\n",
      within, points, worst);
}
