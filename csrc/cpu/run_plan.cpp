#include "run_plan.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "cpu_features.h"
#include "kernels.h"
#include "lockstep_cost.h"

namespace fastmaml {
namespace {

// Tasks, or groups of them in lockstep, are taken in chunks. A team gathers a chunk's gradients in
// a sum of its own, which is then added to the result in the order of the chunks. How many there
// are depends on the number of tasks alone, so that the order of summation does too.
constexpr int64_t most_chunks = 64;

// Chunks a team may be ahead of its turn, beside the one that it is at.
constexpr int64_t spare_sums = 2;

// Multiply-adds of one task, roughly: what decides whether more threads pay.
template <class Real>
double task_work(const Call<Real>& call) {
  const double step_passes = call.steps * (call.differentiate ? 9 : 3);
  double work = 0;
  for (int32_t i = 0; i < call.program.op_count; ++i) {
    const Op& op = call.program.ops[i];
    const double each = static_cast<double>(op.rows) * op.in * (multiplies(op.kind) ? op.out : 8);
    const double support = op.side == Side::query ? 0 : call.support.count;
    const double query = op.side == Side::support ? 0 : call.query.count;
    work += each * (op.active ? support * step_passes + query * 3
                              : (support + query) * (call.differentiate ? 2 : 1));
  }
  return work;
}

// How many steps the adjoint runs again that keeps a segment at a time, and activations of the last
// `taped` steps of it: for what they led to all but those of the last segment, then for
// activations.
int64_t computed_again(int64_t steps, int64_t segment, int64_t taped) {
  const auto for_activations = [taped](int64_t of) { return std::max<int64_t>(of - taped, 0); };
  const int64_t full = steps / segment, first = steps % segment;
  return steps - segment + full * for_activations(segment) + for_activations(first);
}

// The program of groups, where tasks run in lockstep.
template <class Real>
std::optional<LockstepProgram> lockstep_program(const Call<Real>& call) {
  if (lockstep(call).why_not) return {};
  return LockstepProgram(call.program, kernels<Real>().width);
}

}  // namespace

template <class Real>
RunPlan<Real>::RunPlan(const Call<Real>& call, int threads)
    : RunPlan(call, lockstep_program(call), threads) {
  if (fits()) return;
  throw std::invalid_argument("memory_budget must be at least " + std::to_string(bytes()) +
                              " bytes for this call on " + std::to_string(teams * lanes) +
                              (teams * lanes == 1 ? " thread" : " threads") + ", got " +
                              std::to_string(memory_budget));
}

template <class Real>
RunPlan<Real>::RunPlan(const Call<Real>& call, std::optional<LockstepProgram> of_groups,
                       int threads)
    : program(std::move(of_groups)),
      keeps_steps(call.keep_phi || call.keep_states),
      memory_budget(call.memory_budget),
      sum_stride(aligned(call.summed_size)) {
  units = program ? portable::ceil_div(call.tasks, program->view().tasks) : call.tasks;
  chunks = std::min(units, most_chunks);
  divide(call, threads);
  keep_what_fits(call);
}

template <class Real>
Call<Real> RunPlan<Real>::as_planned(Call<Real> call) const {
  call.segment = segment;
  call.tape_steps = tape_steps;
  return call;
}

// One team a thread; several lanes a team where that ends sooner, since tasks are few and do not
// come out even, if a task is large enough to be worth their waiting for each other. A team that
// runs tasks in lockstep is one thread.
template <class Real>
void RunPlan<Real>::divide(const Call<Real>& call, int threads) {
  constexpr double worth_a_thread = 2e5, worth_a_lane = 4e6;
  constexpr double lane_share = 0.9;  // of a thread's work that each lane after the first adds
  const double work = task_work(call);
  const double useful = std::max(1.0, work * call.tasks / worth_a_thread);
  if (useful < threads) threads = static_cast<int>(useful);
  const int most_lanes =
      program ? 1 : static_cast<int>(std::clamp(work / worth_a_lane, 1.0, double(threads)));
  teams = lanes = 0;
  double least = std::numeric_limits<double>::infinity();
  for (int of_team = 1; of_team <= most_lanes; ++of_team) {
    const int most_teams = static_cast<int>(std::min<int64_t>(threads / of_team, chunks));
    const double rounds = std::ceil(double(chunks) / most_teams);
    const double time = rounds / (1 + lane_share * (of_team - 1));
    if (time < least) {
      least = time;
      teams = most_teams;
      lanes = of_team;
    }
  }
}

// All that the adjoint reads, where the budget holds it. Else what computes the fewest steps again;
// and without chunks that wait for their turn only where nothing fits beside them.
template <class Real>
void RunPlan<Real>::keep_what_fits(const Call<Real>& call) {
  // Sizes are those of the call of a group.
  std::optional<LockstepCall<Real>> of_group;
  if (program) of_group.emplace(call, *program, nullptr);
  group_size = of_group ? of_group->size() : 0;
  const Call<Real> unit = of_group ? of_group->call() : call;
  const auto keep = [&](int64_t steps, int64_t with_tape) {
    segment = steps;
    tape_steps = with_tape;
    workspace = plan_workspace(as_planned(unit));
  };
  const int64_t all = call.segment, fewest = keeps_steps ? 1 : all;
  struct {
    int64_t bytes, segment;
  } least{INT64_MAX, all};
  for (const int64_t spare : {spare_sums, int64_t{0}}) {
    sums = std::min(chunks, (1 + spare) * teams - spare);
    struct {
      int64_t again, segment, tape_steps;
    } best{INT64_MAX, 0, 0};
    for (int64_t steps = all; steps >= fewest; --steps) {
      keep(steps, 1);
      if (bytes() < least.bytes) least = {bytes(), steps};
      if (!fits()) continue;
      const int64_t most = std::min(call.tape_steps, steps);
      const int64_t step_bytes = teams * workspace.tape_stride * int64_t{sizeof(Real)};
      const int64_t room = step_bytes ? 1 + (memory_budget - bytes()) / step_bytes : most;
      const int64_t taped = std::min(most, room), again = computed_again(all, steps, taped);
      if (again < best.again) best = {again, steps, taped};
      if (taped == most) break;  // fewer steps at a time only cost more
    }
    if (best.segment) return keep(best.segment, best.tape_steps);
  }
  keep(least.segment, std::min<int64_t>(call.tape_steps, 1));
}

template <class Real>
LockstepChoice lockstep(const Call<Real>& call, double saved) {
  const int width = kernels<Real>().width;
  const char* refusal = call.tasks == 0 ? "there are no tasks" : lockstep_refusal(call);
  if (refusal) return {width, refusal};
  const char* forced = std::getenv("FASTMAML_LOCKSTEP");
  if (forced && *forced) {
    return {width, std::atoi(forced) ? nullptr : "FASTMAML_LOCKSTEP forbids it"};
  }
  const int cores = machine_cores();
  if (!lockstep_pays(call, width, cores, saved)) return {width, "they end sooner so"};
  if (call.memory_budget != Call<Real>::no_budget &&
      !RunPlan<Real>(call, LockstepProgram(call.program, width), cores).fits()) {
    return {width, "memory_budget holds no group of tasks on every core"};
  }
  return {width, nullptr};
}

#define FM_INSTANTIATE(Real)     \
  template struct RunPlan<Real>; \
  template LockstepChoice lockstep(const Call<Real>&, double);
FM_INSTANTIATE(float)
FM_INSTANTIATE(double)
#undef FM_INSTANTIATE

}  // namespace fastmaml
