#include "executor.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <optional>
#include <thread>

#include "kernels.h"
#include "lockstep.h"
#include "lockstep_cost.h"
#include "memory.h"
#include "ordered_sum.h"
#include "thread_pool.h"

namespace fastmaml {
namespace {

// Tasks, or groups of them in lockstep, are taken in chunks. A team gathers a chunk's gradients in
// a sum of its own, which is then added to the result in the order of the chunks. How many there
// are depends on the number of tasks alone, so that the order of summation does too.
constexpr int64_t most_chunks = 64;

// Multiply-adds of one task, roughly: what decides whether more threads pay.
template <class Real>
double task_work(const Call<Real>& call) {
  double active = 0, fixed = 0;  // a sample
  for (int32_t i = 0; i < call.program.op_count; ++i) {
    const Op& op = call.program.ops[i];
    const bool multiplies =
        op.kind == OpKind::linear || op.kind == OpKind::gram || op.kind == OpKind::dual;
    (op.active ? active : fixed) +=
        static_cast<double>(op.rows) * op.in * (multiplies ? op.out : 8);
  }
  const double passes = call.differentiate ? 9 : 3;
  return active * (call.steps * call.support.count * passes + call.query.count * 3) +
         fixed * (call.support.count + call.query.count) * (call.differentiate ? 2 : 1);
}

struct Threads {
  int teams;
  int lanes;  // a team
};

// One team a thread; several lanes a team where that ends sooner, since tasks are few and do not
// come out even, if a task is large enough to be worth their waiting for each other. A team that
// runs tasks in lockstep is one thread.
template <class Real>
Threads divide(const Call<Real>& call, int64_t chunks, int threads, bool in_lockstep) {
  constexpr double worth_a_thread = 2e5, worth_a_lane = 4e6;
  constexpr double lane_share = 0.9;  // of a thread's work that each lane after the first adds
  const double work = task_work(call);
  const double useful = std::max(1.0, work * call.tasks / worth_a_thread);
  if (useful < threads) threads = static_cast<int>(useful);
  const int most_lanes =
      in_lockstep ? 1 : static_cast<int>(std::clamp(work / worth_a_lane, 1.0, double(threads)));
  Threads best{0, 0};
  double least = std::numeric_limits<double>::infinity();
  for (int lanes = 1; lanes <= most_lanes; ++lanes) {
    const int teams = static_cast<int>(std::min<int64_t>(threads / lanes, chunks));
    const double rounds = std::ceil(double(chunks) / teams);
    const double time = rounds / (1 + lane_share * (lanes - 1));
    if (time < least) {
      least = time;
      best = {teams, lanes};
    }
  }
  return best;
}

// The program of groups, where tasks run in lockstep.
template <class Real>
std::optional<LockstepProgram> lockstep_program(const Call<Real>& call) {
  if (lockstep(call).why_not) return {};
  return LockstepProgram(call.program, kernels<Real>().width);
}

template <class Real>
class Run {
 public:
  using Kernel = decltype(Kernels<Real>::run_task);

  Run(const Call<Real>& call, Kernel kernel, const std::vector<SummedGradient<Real>>& gradients,
      int threads, Interrupt interrupt)
      : call_(call),
        kernel_(kernel),
        program_(lockstep_program(call)),
        units_(program_ ? portable::ceil_div(call.tasks, program_->view().tasks) : call.tasks),
        chunks_(std::min(units_, most_chunks)),
        threads_(divide(call, chunks_, threads, program_.has_value())),
        sizes_(call, program_),
        sum_stride_(aligned(call.summed_size)),
        sums_(std::min<int64_t>(chunks_, (1 + spare_sums) * threads_.teams - spare_sums)),
        memory_((threads_.teams * sizes_.team() + sums_ * sum_stride_) * sizeof(Real)),
        teams_(std::make_unique<Team[]>(threads_.teams)),
        sum_(gradients, chunks_, memory_of(threads_.teams), sums_, sum_stride_),
        interruption_(interrupt) {
    for (int team = 0; team < threads_.teams; ++team) {
      teams_[team].shared.stop = interrupted;
      teams_[team].shared.stop_context = this;
      if (program_) {
        Real* tensors = memory_of(team) + sizes_.workspace.size;
        teams_[team].group = std::make_unique<LockstepCall<Real>>(call_, *program_, tensors);
      }
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
  struct Team {
    TeamShared shared;
    std::unique_ptr<LockstepCall<Real>> group;  // where tasks run in lockstep
    int64_t chunk;                              // that it is at, and the sums of that
    Real* sums;
  };

  // Numbers that a team needs: of a task's workspace, and of a group's tensors.
  struct Sizes {
    Workspace workspace;
    int64_t group = 0;

    Sizes(const Call<Real>& call, const std::optional<LockstepProgram>& program) {
      if (program) {
        const LockstepCall<Real> of_group(call, *program, nullptr);
        workspace = plan_workspace(of_group.call());
        group = of_group.size();
      } else {
        workspace = plan_workspace(call);
      }
    }
    int64_t team() const { return workspace.size + group; }
  };

  static bool interrupted(void* self) { return static_cast<Run*>(self)->interruption_.happened(); }

  Real* memory_of(int team) { return memory_.as<Real>() + team * sizes_.team(); }

  void lane(int index) {
    Team& team = teams_[index / threads_.lanes];
    Real* memory = memory_of(index / threads_.lanes);
    const Lane lane{index % threads_.lanes, threads_.lanes, &team.shared};
    portable::TeamCpu<Real> lanes(lane.rank, lane.size, lane.shared);
    if (team.group) kernels<Real>().begin_lockstep(*team.group);
    for (;;) {
      if (lane.rank == 0) begin_chunk(team);
      if (lanes.stopped()) return;  // a barrier too
      if (team.chunk >= chunks_) return;
      const int64_t first = units_ * team.chunk / chunks_;
      const int64_t last = units_ * (team.chunk + 1) / chunks_;
      for (int64_t unit = first; unit < last; ++unit) {
        if (poison_ && lane.rank == 0) {
          std::fill_n(memory, sizes_.workspace.size, std::numeric_limits<Real>::quiet_NaN());
        }
        if (lanes.stopped()) return;
        run_unit(team, lane, memory, unit);
      }
      if (lane.rank == 0) finish_chunk(team);
    }
  }

  // A task, or a group of them: groups are of nearly equal size.
  void run_unit(Team& team, const Lane& lane, Real* memory, int64_t unit) {
    if (!team.group) {
      kernel_(lane, call_, sizes_.workspace, memory, team.sums, unit);
      return;
    }
    const int64_t first = call_.tasks * unit / units_, last = call_.tasks * (unit + 1) / units_;
    kernels<Real>().run_group(*team.group, sizes_.workspace, memory, lane.shared, team.sums, first,
                              last);
  }

  void begin_chunk(Team& team) {
    team.chunk = chunks_;
    for (int tries = 0; !(team.sums = sum_.try_take()); ++tries) {
      if (interruption_.happened()) return;
      if (tries > 100) sched_yield();
    }
    std::fill_n(team.sums, sum_stride_, Real(0));
    if (team.group) std::fill_n(team.group->sums, team.group->sums_size, Real(0));
    team.chunk = next_chunk_.fetch_add(1);
  }

  void finish_chunk(Team& team) {
    if (team.group) kernels<Real>().add_group_sums(*team.group, team.sums);
    sum_.finish(team.chunk, team.sums);
  }

  // Chunks a team may be ahead of its turn, beside the one that it is at.
  static constexpr int spare_sums = 2;

  const Call<Real>& call_;
  Kernel kernel_;
  std::optional<LockstepProgram> program_;  // where tasks run in lockstep
  int64_t units_;                           // tasks, or groups of them
  int64_t chunks_;
  Threads threads_;
  Sizes sizes_;
  int64_t sum_stride_;
  int64_t sums_;
  Memory memory_;  // of the teams, then the sums of chunks
  std::unique_ptr<Team[]> teams_;
  OrderedSum<Real> sum_;
  Interruption interruption_;
  std::atomic<int64_t> next_chunk_{0};
  // For tests: a read of memory that was not written shows as NaN.
  bool poison_ = std::getenv("FASTMAML_POISON") != nullptr;
};

}  // namespace

template <class Real>
LockstepChoice lockstep(const Call<Real>& call, double saved) {
  const int width = kernels<Real>().width;
  const char* refusal = call.tasks == 0 ? "there are no tasks" : lockstep_refusal(call);
  if (refusal) return {width, refusal};
  const char* forced = std::getenv("FASTMAML_LOCKSTEP");
  if (forced && *forced) {
    return {width, std::atoi(forced) ? nullptr : "FASTMAML_LOCKSTEP forbids it"};
  }
  // asked once: the answer is a file of the system's
  static const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return {width, lockstep_pays(call, width, cores, saved) ? nullptr : "they end sooner so"};
}

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

template LockstepChoice lockstep(const Call<float>&, double);
template LockstepChoice lockstep(const Call<double>&, double);
template void run(const Call<float>&, const std::vector<SummedGradient<float>>&, int, Interrupt);
template void run(const Call<double>&, const std::vector<SummedGradient<double>>&, int, Interrupt);
template void hessian_vector_products(const Call<float>&, int, Interrupt);
template void hessian_vector_products(const Call<double>&, int, Interrupt);

}  // namespace fastmaml
