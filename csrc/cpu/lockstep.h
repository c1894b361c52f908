// Calls whose tasks run in lockstep: groups of as many tasks as a vector has numbers, one in each
// of its lanes. To the program a group is one task whose every element is the numbers of all tasks,
// which lie together (team.h), so what a call has of each task is brought together before a group
// runs, and taken apart after.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "../program/call.h"

namespace fastmaml {

// Why the tasks of a call cannot run in lockstep; null if they can.
template <class Real>
const char* lockstep_refusal(const Call<Real>& call);

// A program of groups of `width` tasks.
class LockstepProgram {
 public:
  LockstepProgram(const Program& program, int width);

  Program view() const;

 private:
  Program program_;
  std::vector<Op> ops_;
  std::vector<Value> values_;
  std::vector<Slot> slots_;
};

// A tensor, and where its numbers for one group lie.
template <class T>
struct Together {
  T* tensor;                      // [T, size]
  int64_t size;                   // numbers a task
  std::remove_const_t<T>* group;  // [size, width]
};

// One team's call of a group after another, and its memory for them.
template <class Real>
class LockstepCall {
 public:
  // `memory` has size() numbers; null to learn how many that is.
  LockstepCall(const Call<Real>& call, const LockstepProgram& program, Real* memory);
  // The call points into this.
  LockstepCall(const LockstepCall&) = delete;
  LockstepCall& operator=(const LockstepCall&) = delete;

  // Of a group, as of one task.
  const Call<Real>& call() const { return call_; }
  int64_t size() const { return used_; }

  // What all tasks share, one number an element: brought together once.
  std::vector<Together<const Real>> shared;
  // What each task has of its own. A group with fewer tasks than a vector has lanes is filled up
  // with its last task, whose cotangents are 0 there.
  std::vector<Together<const Real>> inputs, cotangents;
  std::vector<Together<const int64_t>> labels;
  std::vector<Together<Real>> results;
  // Results that are added to: zero when a group begins.
  std::vector<Together<Real>> gradients;

  // Gradients that are summed over tasks, as `width` sums each or as one; but those of initial
  // parameters are added to the sums of the whole call at once.
  struct Sum {
    int64_t offset, size;  // in the summed gradients of the whole call
    int64_t group_offset;  // in `sums`
    bool is_together;
  };
  std::vector<Sum> summed;
  Real* sums = nullptr;
  int64_t sums_size = 0;

 private:
  Real* place(const Real* tensor, int64_t numbers);
  template <class T>
  std::remove_const_t<T>* together(std::vector<Together<T>>& list, T* tensor, int64_t size);
  Samples<Real> samples(const Samples<Real>& of_tasks);
  int64_t sum(int64_t offset, int64_t size, bool is_together);
  template <class T>
  T* const* together_by_slot(std::vector<Together<T>>& list, T* const* tensors,
                             std::vector<T*>& storage);

  const Program& of_task_;
  int64_t width_;
  Real* memory_;
  int64_t used_ = 0;
  Call<Real> call_;
  std::vector<Parameter<Real>> parameters_;
  std::vector<Rate<Real>> rates_;
  std::vector<Real*> adapted_, products_;
  std::vector<const Real*> adapted_bar_, vectors_;
};

}  // namespace fastmaml
