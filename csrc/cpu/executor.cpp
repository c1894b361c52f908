#include "executor.h"

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

// Tasks are taken in chunks, each with its own sum of gradients. How many there are depends on
// nothing but the call's sizes, so that the order of summation does not either: enough to keep
// many threads busy, unless the sums would be large.
constexpr int64_t most_chunks = 64, fewest_chunks = 8;
constexpr int64_t chunk_memory = int64_t{8} << 20;  // bytes, for the sums of all chunks

template <class Real>
int64_t chunk_count(const Call<Real>& call) {
  const int64_t bytes = std::max<int64_t>(call.summed_size, 1) * sizeof(Real);
  return std::min(call.tasks, std::clamp(chunk_memory / bytes, fewest_chunks, most_chunks));
}

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

  Run(const Call<Real>& call, Kernel kernel, int threads)
      : call_(call),
        kernel_(kernel),
        workspace_(plan_workspace(call)),
        chunks_(chunk_count(call)),
        threads_(divide(call, chunks_, threads)),
        shared_(std::make_unique<TeamShared[]>(threads_.teams)),
        stride_((workspace_.size + 15) / 16 * 16),
        memory_((threads_.teams * stride_ + chunks_ * call.summed_size) * sizeof(Real)) {}

  void tasks() {
    parallel(threads_.teams * threads_.lanes,
             [](void* self, int index) { static_cast<Run*>(self)->lane(index); });
  }

  // Adds up what the chunks gathered, in their order.
  void reduce(const std::vector<SummedGradient<Real>>& gradients) {
    gradients_ = &gradients;
    const bool large = chunks_ * call_.summed_size > 1 << 17;
    reducers_ = large ? threads_.teams * threads_.lanes : 1;
    parallel(reducers_, [](void* self, int index) { static_cast<Run*>(self)->reduce_part(index); });
  }

 private:
  void parallel(int threads, void (*function)(void*, int)) {
    if (threads > 1) {
      run_parallel(threads, function, this);
    } else {
      function(this, 0);
    }
  }

  Real* workspace(int team) { return memory_.as<Real>() + team * stride_; }
  Real* sums(int64_t chunk) { return workspace(threads_.teams) + chunk * call_.summed_size; }

  void lane(int index) {
    const int team = index / threads_.lanes;
    const Lane lane{index % threads_.lanes, threads_.lanes, &shared_[team]};
    // Lanes of a team must agree on their chunks, so there these are dealt out beforehand.
    int64_t chunk = lane.size == 1 ? next_chunk_.fetch_add(1) : team;
    while (chunk < chunks_) {
      Real* summed = sums(chunk);
      if (lane.rank == 0) std::fill_n(summed, call_.summed_size, Real(0));
      const int64_t first = call_.tasks * chunk / chunks_;
      const int64_t last = call_.tasks * (chunk + 1) / chunks_;
      for (int64_t task = first; task < last; ++task) {
        if (poison_ && lane.rank == 0) {
          std::fill_n(workspace(team), workspace_.size, std::numeric_limits<Real>::quiet_NaN());
        }
        portable::TeamCpu<Real>(lane.rank, lane.size, lane.shared).sync();
        kernel_(lane, call_, workspace_, workspace(team), summed, task);
      }
      chunk = lane.size == 1 ? next_chunk_.fetch_add(1) : chunk + threads_.teams;
    }
  }

  void reduce_part(int index) {
    for (const SummedGradient<Real>& gradient : *gradients_) {
      const int64_t first = gradient.size * index / reducers_;
      const int64_t count = gradient.size * (index + 1) / reducers_ - first;
      Real* to = gradient.to + first;
      std::copy_n(sums(0) + gradient.offset + first, count, to);
      for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
        const Real* from = sums(chunk) + gradient.offset + first;
        for (int64_t i = 0; i < count; ++i) to[i] += from[i];
      }
    }
  }

  const Call<Real>& call_;
  Kernel kernel_;
  Workspace workspace_;
  int64_t chunks_;
  Threads threads_;
  std::unique_ptr<TeamShared[]> shared_;
  int64_t stride_;
  Memory memory_;
  std::atomic<int64_t> next_chunk_{0};
  const std::vector<SummedGradient<Real>>* gradients_ = nullptr;
  int reducers_ = 1;
  // For tests: a read of memory that was not written shows as NaN.
  bool poison_ = std::getenv("FASTMAML_POISON") != nullptr;
};

}  // namespace

template <class Real>
void run(const Call<Real>& call, const std::vector<SummedGradient<Real>>& summed, int threads) {
  Run<Real> run(call, kernels<Real>().run_task, threads);
  run.tasks();
  run.reduce(summed);
}

template <class Real>
void hessian_vector_products(const Call<Real>& call, int threads) {
  Run<Real>(call, kernels<Real>().hessian_vector_product, threads).tasks();
}

template void run(const Call<float>&, const std::vector<SummedGradient<float>>&, int);
template void run(const Call<double>&, const std::vector<SummedGradient<double>>&, int);
template void hessian_vector_products(const Call<float>&, int);
template void hessian_vector_products(const Call<double>&, int);

}  // namespace fastmaml
