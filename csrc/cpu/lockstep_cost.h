// Whether tasks end sooner in lockstep (lockstep.h) than one by one: a model of both.
#pragma once

#include "../program/call.h"

namespace fastmaml {

// What a task of a call with its gradient takes, counted in what its time depends on.
template <class Real>
struct LockstepWork {
  LockstepWork(const Call<Real>& call, int width);

  double passes = 0;         // of ops
  double multiply_adds = 0;  // of products
  double padded = 0;         // the same in whole vectors of `width`, as one task alone runs them
  double lane_sums = 0;      // of those, numbers that are summed over the lanes of a vector
  double numbers = 0;        // of activations, read or written
  double weights = 0;        // likewise
  double samples = 0;        // numbers of the samples, brought together for a group
  double samples_read = 0;   // the same, as often as products read them
  double samples_bytes = 0;  // of the support or the query, the larger one
  double frame_bytes = 0;    // of a group: activations of one pass, and
  double group_bytes = 0;    // all that it reads and writes
};

// Whether they end sooner so, on vectors of `width` numbers and so many cores. `saved`: seconds
// that another form of its layers would save a task that runs alone.
template <class Real>
bool lockstep_pays(const Call<Real>& call, int width, int cores, double saved = 0);

}  // namespace fastmaml
