// What is compiled once for each instruction set (kernels.cpp), and chosen from at load.
#pragma once

#include "../program/call.h"
#include "../program/workspace.h"
#include "../team/team_cpu.h"
#include "lockstep.h"

namespace fastmaml {

// Which lane of a team the caller is.
struct Lane {
  int rank;
  int size;
  TeamShared* shared;
};

// The four passes of a program over n samples of one task. All slots are adapted, the input is
// active; frames are as large as the program says.
template <class Real>
struct PassesCall {
  Program program;
  int64_t samples;
  uint32_t seed, task, pass;
  const Real *x, *x_dot;                  // [n, input]
  const Real *w, *w_dot;                  // [P]
  Real *values, *bars, *dots, *bar_dots;  // frames of active values; the output's bars are given
  Real *x_bar, *x_bar_dot;                // zero on entry, like
  Real *w_bar, *w_bar_dot;
  const uint8_t* wanted;
};

// A loss over n samples of one task, its gradients and their tangents.
template <class Real>
struct LossPassesCall {
  LossKind kind;
  double label_smoothing;
  int64_t samples, features;
  const Real* prediction;
  const int64_t* labels;
  const Real* target;
  const Real* weights;
  const Real* prediction_dot;
  Real *sample_loss, *prediction_bar, *target_bar;              // zero on entry
  Real *sample_loss_dot, *prediction_bar_dot, *target_bar_dot;  // likewise
};

template <class Real>
struct Kernels {
  // One task, on every lane of a team.
  void (*run_task)(const Lane& lane, const Call<Real>& call, const Workspace& workspace,
                   Real* memory, Real* summed, int64_t task);
  void (*hessian_vector_product)(const Lane& lane, const Call<Real>& call,
                                 const Workspace& workspace, Real* memory, Real* summed,
                                 int64_t task);
  // Tasks in lockstep: how many a group; what comes before the first group; the group of the tasks
  // first..last-1; what all groups so far have summed, added to the call's sums.
  int width;
  void (*begin_lockstep)(const LockstepCall<Real>& call);
  void (*run_group)(const LockstepCall<Real>& call, const Workspace& workspace, Real* memory,
                    TeamShared* shared, Real* summed, int64_t first, int64_t last);
  void (*add_group_sums)(const LockstepCall<Real>& call, Real* summed);
  void (*passes)(const PassesCall<Real>& call);
  void (*loss_passes)(const LossPassesCall<Real>& call);
};

// Those of the instruction set that this process uses.
template <class Real>
const Kernels<Real>& kernels();

}  // namespace fastmaml
