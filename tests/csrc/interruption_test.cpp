// Calls that are interrupted: in many tasks or inside of one, on one thread or several, with
// teams of several lanes. They end soon, throw, and leave nothing behind for the next call.
#include "cpu/interruption.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "check.h"
#include "cpu/executor.h"
#include "program/analysis.h"
#include "program/call_builder.h"

namespace {

using namespace fastmaml;

constexpr int64_t width = 16, samples = 4;

std::atomic<int> asked{0};
bool never() {
  ++asked;
  return false;
}
bool at_once() {
  ++asked;
  return true;
}
bool at_third() { return ++asked >= 3; }

// On the thread that runs it: whether the only task's loss is there, so that its adjoint runs.
const double* loss_of_task = nullptr;
bool in_the_adjoint() {
  ++asked;
  return *loss_of_task != 0;
}

// A linear model, adapted by T tasks in K steps, and the gradient of its parameters and rates.
class Problem {
 public:
  Problem(int64_t tasks, int64_t steps)
      : x_(tasks * samples * width, 0.5),
        y_(x_.size(), 0.25),
        parameters_(width * width, 0.01),
        rate_(1, 1e-3),
        task_loss_(tasks),
        bar_(tasks, 1.0),
        prediction_(x_.size()),
        parameters_grad_(parameters_.size()),
        rate_grad_(1) {
    argument_.tasks = tasks;
    argument_.steps = steps;
    argument_.step_weights.assign(steps + 1, 0);
    argument_.step_weights.back() = 1;
    argument_.parameters.push_back({refer(parameters_), false, refer(parameters_grad_)});
    argument_.rates.push_back({refer(rate_), 1, 1, refer(rate_grad_)});
    for (SamplesArgument* to : {&argument_.support, &argument_.query}) {
      to->count = samples;
      to->x = refer(x_);
      to->target = refer(y_);
    }
    argument_.task_loss = refer(task_loss_);
    argument_.prediction = refer(prediction_);
    argument_.task_loss_bar = refer(bar_);
    argument_.differentiate = argument_.through_steps = true;
  }

  // Whether the call ran to its end.
  bool run(int threads, Interrupt interrupt) {
    std::fill(parameters_grad_.begin(), parameters_grad_.end(), 0.0);
    const CallOwner<double> owner(program_, argument_, addresses_, 0);
    try {
      fastmaml::run(owner.call(), owner.summed(), RunPlan(owner.call(), threads), interrupt);
    } catch (const Interrupted&) {
      return false;
    }
    return true;
  }

  const std::vector<double>& gradient() const { return parameters_grad_; }
  const double* loss() const { return task_loss_.data(); }
  void set_memory_budget(int64_t bytes) { argument_.memory_budget = bytes; }

 private:
  Ref refer(std::vector<double>& numbers) {
    addresses_.push_back(reinterpret_cast<Address>(numbers.data()));
    return static_cast<Ref>(addresses_.size()) - 1;
  }

  ProgramOwner program_{{{"linear", {0, -1}, 1, {0, -1}, 1, width, width, {0, 0}}},
                        {width, width},
                        {{width * width, true}},
                        1,
                        "mse",
                        0,
                        false};
  CallArgument argument_;
  std::vector<Address> addresses_ = {0};
  std::vector<double> x_, y_, parameters_, rate_;
  std::vector<double> task_loss_, bar_, prediction_, parameters_grad_, rate_grad_;
};

// The problem would run for much longer than it may.
void check_ends_soon(int64_t tasks, int64_t steps, int threads, Interrupt interrupt, int times) {
  Problem problem(tasks, steps);
  asked = 0;
  const auto begin = std::chrono::steady_clock::now();
  CHECK(!problem.run(threads, interrupt));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  CHECK(asked == times);
  CHECK(seconds.count() < 5);
}

// Steps that are computed again from checkpoints, a few thousand at a time.
void check_ends_among_checkpoints() {
  Problem problem(1, 400000);
  problem.set_memory_budget(int64_t{8} << 20);
  loss_of_task = problem.loss();
  asked = 0;
  CHECK(!problem.run(1, in_the_adjoint));
  CHECK(asked > 1);
}

void check_nothing_is_left_behind() {
  Problem problem(70, 40);
  CHECK(problem.run(1, nullptr));
  const std::vector<double> alone = problem.gradient();
  for (const int threads : {1, 2, 3}) {
    CHECK(problem.run(threads, never));
    CHECK(problem.gradient() == alone);
  }
}

}  // namespace

int main() {
  check_nothing_is_left_behind();
  for (const int threads : {1, 2, 5}) {
    check_ends_soon(20000, 500, threads, at_once, 1);  // between tasks, many a chunk
    check_ends_soon(20000, 500, threads, at_third, 3);
    check_ends_soon(1, 200000, threads, at_once, 1);  // in one task, by several lanes
    check_ends_soon(2, 200000, threads, at_third, 3);
  }
  check_ends_among_checkpoints();
  check_nothing_is_left_behind();
  return failed_checks != 0;
}
