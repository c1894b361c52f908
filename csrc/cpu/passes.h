// The four functions of a program, and of a loss, run for one task: what the tests look at.
#pragma once

#include <cstdint>
#include <string>

#include "../program/analysis.h"
#include "../program/call_builder.h"

namespace fastmaml {

// Addresses of n samples' numbers; results are zero on entry. `program` has every slot adapted
// and its input active; w and its like hold all slots, one after the other.
struct PassesArgument {
  int64_t samples = 0;
  uint32_t seed = 0, task = 0, pass = 0;
  Address x = 0, x_dot = 0, w = 0, w_dot = 0, y_bar = 0, y_bar_dot = 0;
  Address y = 0, y_dot = 0, x_bar = 0, x_bar_dot = 0, w_bar = 0, w_bar_dot = 0;
};

struct LossPassesArgument {
  std::string kind;
  double label_smoothing = 0;
  int64_t samples = 0, features = 0;
  Address prediction = 0, labels = 0, target = 0, weights = 0, prediction_dot = 0;
  Address sample_loss = 0, prediction_bar = 0, target_bar = 0;
  Address sample_loss_dot = 0, prediction_bar_dot = 0, target_bar_dot = 0;
};

template <class Real>
void run_passes(const ProgramOwner& program, const PassesArgument& argument);

template <class Real>
void run_loss_passes(const LossPassesArgument& argument);

}  // namespace fastmaml
