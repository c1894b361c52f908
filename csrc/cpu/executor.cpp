#include "executor.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <memory>
#include <system_error>

#include "kernels.h"
#include "memory.h"
#include "thread_pool.h"

namespace fastmaml {
namespace {

// Tasks are taken in chunks. A team gathers a chunk's gradients in a sum of its own, which is then
// added to the result in the order of the chunks. How many there are depends on the number of tasks
// alone, so that the order of summation does too.
constexpr int64_t most_chunks = 64;

// Multiply-adds of one task, roughly: what decides whether more threads pay.
template <class Real>
double task_work(const Call<Real>& call) {
  double sample = 0;
  for (int32_t i = 0; i < call.program.op_count; ++i) {
    const Op& op = call.program.ops[i];
    sample += static_cast<double>(op.rows) * op.in * (op.kind == OpKind::linear ? op.out : 8);
  }
  const double passes = call.differentiate ? 9 : 3;
  return sample * (call.steps * call.support.count * passes + call.query.count * 3);
}

struct Threads {
  int teams;
  int lanes;  // a team
};

// One team a thread; where tasks are fewer than threads, several lanes a team, if a task is large
// enough to be worth their waiting for each other.
template <class Real>
Threads divide(const Call<Real>& call, int64_t chunks, int threads) {
  constexpr double worth_a_thread = 2e5, worth_a_lane = 4e6;
  const double work = task_work(call);
  const double useful = std::max(1.0, work * call.tasks / worth_a_thread);
  if (useful < threads) threads = static_cast<int>(useful);
  if (chunks >= threads) return {threads, 1};
  const int teams = static_cast<int>(chunks);
  const int lanes = static_cast<int>(std::clamp(work / worth_a_lane, 1.0, double(threads / teams)));
  return {teams, lanes};
}

template <class Real>
class Run {
 public:
  using Kernel = decltype(Kernels<Real>::run_task);

  Run(const Call<Real>& call, Kernel kernel, const std::vector<SummedGradient<Real>>& gradients,
      int threads, Interrupt interrupt)
      : call_(call),
        kernel_(kernel),
        gradients_(gradients),
        workspace_(plan_workspace(call)),
        chunks_(std::min(call.tasks, most_chunks)),
        threads_(divide(call, chunks_, threads)),
        shared_(std::make_unique<TeamShared[]>(threads_.teams)),
        stride_(workspace_.size + (call.summed_size + 15) / 16 * 16),
        memory_(threads_.teams * stride_ * sizeof(Real)),
        interruption_(interrupt) {
    for (int team = 0; team < threads_.teams; ++team) {
      shared_[team].stop = interrupted;
      shared_[team].stop_context = this;
    }
  }

  void tasks() {
    run_parallel(
        threads_.teams * threads_.lanes,
        [](void* self, int index) { static_cast<Run*>(self)->lane(index); }, this,
        [](void* self) { interrupted(self); });
    if (interruption_.happened()) throw Interrupted();
  }

 private:
  static bool interrupted(void* self) { return static_cast<Run*>(self)->interruption_.happened(); }

  Real* workspace(int team) { return memory_.as<Real>() + team * stride_; }

  void lane(int index) {
    const int team = index / threads_.lanes;
    const Lane lane{index % threads_.lanes, threads_.lanes, &shared_[team]};
    portable::TeamCpu<Real> lanes(lane.rank, lane.size, lane.shared);
    // Lanes of a team must agree on their chunks, so there these are dealt out beforehand.
    int64_t chunk = lane.size == 1 ? next_chunk_.fetch_add(1) : team;
    while (chunk < chunks_) {
      Real* summed = workspace(team) + workspace_.size;
      if (lane.rank == 0) std::fill_n(summed, call_.summed_size, Real(0));
      const int64_t first = call_.tasks * chunk / chunks_;
      const int64_t last = call_.tasks * (chunk + 1) / chunks_;
      for (int64_t task = first; task < last; ++task) {
        if (poison_ && lane.rank == 0) {
          std::fill_n(workspace(team), workspace_.size, std::numeric_limits<Real>::quiet_NaN());
        }
        if (lanes.stopped()) return;  // a barrier too
        kernel_(lane, call_, workspace_, workspace(team), summed, task);
      }
      if (lane.rank == 0) add_to_result(chunk, summed);
      chunk = lane.size == 1 ? next_chunk_.fetch_add(1) : chunk + threads_.teams;
    }
  }

  // Waits until all chunks before this one have been added. They are all under way, since chunks
  // begin in their order; but they may never be finished, if the call is interrupted.
  void add_to_result(int64_t chunk, const Real* summed) {
    if (gradients_.empty()) return;
    for (int spins = 0; added_.load(std::memory_order_acquire) != chunk;) {
      if (interruption_.happened()) return;
      if (++spins > 2000) sched_yield();
    }
    for (const SummedGradient<Real>& gradient : gradients_) {
      const Real* from = summed + gradient.offset;
      Real* to = gradient.to;
      if (chunk == 0) {
        std::copy_n(from, gradient.size, to);
      } else {
        for (int64_t i = 0; i < gradient.size; ++i) to[i] += from[i];
      }
    }
    added_.store(chunk + 1, std::memory_order_release);
  }

  const Call<Real>& call_;
  Kernel kernel_;
  const std::vector<SummedGradient<Real>>& gradients_;
  Workspace workspace_;
  int64_t chunks_;
  Threads threads_;
  std::unique_ptr<TeamShared[]> shared_;
  int64_t stride_;
  Memory memory_;
  Interruption interruption_;
  std::atomic<int64_t> next_chunk_{0};
  std::atomic<int64_t> added_{0};  // chunks that the result holds
  // For tests: a read of memory that was not written shows as NaN.
  bool poison_ = std::getenv("FASTMAML_POISON") != nullptr;
};

}  // namespace

template <class Real>
void run(const Call<Real>& call, const std::vector<SummedGradient<Real>>& summed, int threads,
         Interrupt interrupt) {
  Run<Real>(call, kernels<Real>().run_task, summed, threads, interrupt).tasks();
}

template <class Real>
void hessian_vector_products(const Call<Real>& call, int threads, Interrupt interrupt) {
  const std::vector<SummedGradient<Real>> none;
  Run<Real>(call, kernels<Real>().hessian_vector_product, none, threads, interrupt).tasks();
}

template void run(const Call<float>&, const std::vector<SummedGradient<float>>&, int, Interrupt);
template void run(const Call<double>&, const std::vector<SummedGradient<double>>&, int, Interrupt);
template void hessian_vector_products(const Call<float>&, int, Interrupt);
template void hessian_vector_products(const Call<double>&, int, Interrupt);

}  // namespace fastmaml
