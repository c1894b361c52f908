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
  // Of all calls of the same sizes and options, with the same tensors there. Throws
  // std::invalid_argument where the call's memory_budget does not hold it.
  RunPlan(const Call<Real>& call, int threads);
  // In lockstep where there is a program of groups. Takes the least memory that it can where the
  // budget does not hold it.
  RunPlan(const Call<Real>& call, std::optional<LockstepProgram> program, int threads);

  std::optional<LockstepProgram> program;
  int64_t units;   // tasks, or groups of them
  int64_t chunks;  // of units, each the work of one team
  int teams;
  int lanes;           // a team
  int64_t segment;     // of inner steps that are kept at a time
  int64_t tape_steps;  // of how many of the last of those, activations
  bool keeps_steps;    // whether the adjoint reads what each step led to
  int64_t memory_budget;
  Workspace workspace;  // of a unit
  int64_t group_size;   // numbers that a group's tensors take beside it
  int64_t sum_stride;   // numbers between the gradients of two chunks
  int64_t sums;         // chunks whose gradients there is room for

  int64_t team_size() const { return workspace.size + group_size; }  // in numbers
  int64_t bytes() const {
    return (teams * team_size() + sums * sum_stride) * static_cast<int64_t>(sizeof(Real));
  }
  bool fits() const { return bytes() <= memory_budget; }
  // A call as it was given, but for what it keeps of the inner steps.
  Call<Real> as_planned(Call<Real> call) const;

 private:
  void divide(const Call<Real>& call, int threads);
  void keep_what_fits(const Call<Real>& call);
};

}  // namespace fastmaml
