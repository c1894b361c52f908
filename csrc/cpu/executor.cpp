#include "executor.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <memory>

#include "kernels.h"
#include "memory.h"
#include "ordered_sum.h"
#include "thread_pool.h"

namespace fastmaml {
namespace {

template <class Real>
class Run {
 public:
  Run(const Call<Real>& call, const std::vector<SummedGradient<Real>>& gradients,
      const RunPlan<Real>& plan, Interrupt interrupt)
      : plan_(plan),
        call_(plan.as_planned(call)),
        kernel_(call.vectors ? kernels<Real>().hessian_vector_product : kernels<Real>().run_task),
        memory_(plan_.bytes()),
        teams_(std::make_unique<Team[]>(plan_.teams)),
        sum_(gradients, plan_.chunks, memory_of(plan_.teams), plan_.sums, plan_.sum_stride),
        interruption_(interrupt) {
    for (int team = 0; team < plan_.teams; ++team) {
      teams_[team].shared.stop = interrupted;
      teams_[team].shared.stop_context = this;
      if (plan_.program) {
        Real* tensors = memory_of(team) + plan_.workspace.size;
        teams_[team].group = std::make_unique<LockstepCall<Real>>(call_, *plan_.program, tensors);
      }
    }
  }

  void tasks() {
    run_parallel(
        plan_.teams * plan_.lanes,
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

  static bool interrupted(void* self) { return static_cast<Run*>(self)->interruption_.happened(); }

  Real* memory_of(int team) { return memory_.as<Real>() + team * plan_.team_size(); }

  void lane(int index) {
    Team& team = teams_[index / plan_.lanes];
    Real* memory = memory_of(index / plan_.lanes);
    const Lane lane{index % plan_.lanes, plan_.lanes, &team.shared};
    portable::TeamCpu<Real> lanes(lane.rank, lane.size, lane.shared);
    if (team.group) kernels<Real>().begin_lockstep(*team.group);
    for (;;) {
      if (lane.rank == 0) begin_chunk(team);
      if (lanes.stopped()) return;  // a barrier too
      if (team.chunk >= plan_.chunks) return;
      const int64_t first = plan_.units * team.chunk / plan_.chunks;
      const int64_t last = plan_.units * (team.chunk + 1) / plan_.chunks;
      for (int64_t unit = first; unit < last; ++unit) {
        if (poison_ && lane.rank == 0) {
          std::fill_n(memory, plan_.workspace.size, std::numeric_limits<Real>::quiet_NaN());
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
      kernel_(lane, call_, plan_.workspace, memory, team.sums, unit);
      return;
    }
    const int64_t first = call_.tasks * unit / plan_.units,
                  last = call_.tasks * (unit + 1) / plan_.units;
    kernels<Real>().run_group(*team.group, plan_.workspace, memory, lane.shared, team.sums, first,
                              last);
  }

  void begin_chunk(Team& team) {
    team.chunk = plan_.chunks;
    for (int tries = 0; !(team.sums = sum_.try_take()); ++tries) {
      if (interruption_.happened()) return;
      if (tries > 100) sched_yield();
    }
    std::fill_n(team.sums, plan_.sum_stride, Real(0));
    if (team.group) std::fill_n(team.group->sums, team.group->sums_size, Real(0));
    team.chunk = next_chunk_.fetch_add(1);
  }

  void finish_chunk(Team& team) {
    if (team.group) kernels<Real>().add_group_sums(*team.group, team.sums);
    sum_.finish(team.chunk, team.sums);
  }

  const RunPlan<Real>& plan_;
  const Call<Real> call_;
  decltype(Kernels<Real>::run_task) kernel_;
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
void run(const Call<Real>& call, const std::vector<SummedGradient<Real>>& summed,
         const RunPlan<Real>& plan, Interrupt interrupt) {
  Run<Real>(call, summed, plan, interrupt).tasks();
}

#define FM_INSTANTIATE(Real)                                                     \
  template void run(const Call<Real>&, const std::vector<SummedGradient<Real>>&, \
                    const RunPlan<Real>&, Interrupt);
FM_INSTANTIATE(float)
FM_INSTANTIATE(double)
#undef FM_INSTANTIATE

}  // namespace fastmaml
