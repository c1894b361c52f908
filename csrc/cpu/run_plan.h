// How a call runs on the cores of this machine: its tasks one by one or in lockstep, on how many
// threads, in how much memory, and how much of the inner steps is kept there.
#pragma once

#include <cstdint>
#include <optional>

#include "../program/call.h"
#include "../program/workspace.h"
#include "lockstep.h"

namespace fastmaml {

// Whether the tasks of a call run in lockstep, one in each lane of vectors of `width` numbers, or
// one by one, where another form of layers would save so many seconds a task. It depends on the
// call's sizes, on its memory_budget and on the machine, and not on how many threads there are.
struct LockstepChoice {
  int width;
  const char* why_not;  // null: they do
};
template <class Real>
LockstepChoice lockstep(const Call<Real>& call, double saved = 0);

template <class Real>
struct RunPlan {
  // Throws std::invalid_argument where the call's memory_budget does not hold it.
  RunPlan(const Call<Real>& call, int threads);
  // In lockstep where there is a program of groups. Takes the least memory that it can where the
  // budget does not hold it.
  RunPlan(const Call<Real>& call, std::optional<LockstepProgram> program, int threads);

  Call<Real> call;  // as it was given, but for what it keeps of the inner steps
  std::optional<LockstepProgram> program;
  int64_t units;   // tasks, or groups of them
  int64_t chunks;  // of units, each the work of one team
  int teams;
  int lanes;            // a team
  Workspace workspace;  // of a unit
  int64_t group_size;   // numbers that a group's tensors take beside it
  int64_t sum_stride;   // numbers between the gradients of two chunks
  int64_t sums;         // chunks whose gradients there is room for

  int64_t team_size() const { return workspace.size + group_size; }  // in numbers
  int64_t bytes() const {
    return (teams * team_size() + sums * sum_stride) * static_cast<int64_t>(sizeof(Real));
  }
  // Whether the adjoint reads what each step led to.
  bool keeps_steps() const { return call.keep_phi || call.keep_states; }
  bool fits() const { return bytes() <= call.memory_budget; }

 private:
  void divide(int threads);
  void keep_what_fits();
};

}  // namespace fastmaml
