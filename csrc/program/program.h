// A program as every executor in C++ sees it: plain arrays, filled on the host by analysis.cpp.
//
// A pass over a program (forward, backward, tangents of both) keeps its numbers in a frame. All
// frames of a side have one layout, so value v has its cotangent, tangent and so on at the
// same place of other frames. Where nobody else needs the input of an activation, a relu's output
// overwrites it, in all frames, and a sine's derivative in that of values.
// Values are of three places:
//
//   input    value 0: the samples themselves
//   fixed    depends on neither adapted parameters nor dropout: computed once a task
//   active   everything else: computed anew at every inner step
#pragma once

#include <cstdint>

namespace fastmaml {

enum class OpKind : int32_t {
  linear,
  batch_norm,
  layer_norm,
  rms_norm,
  relu,
  leaky_relu,
  elu,
  tanh,
  sigmoid,
  gelu,
  gelu_tanh,
  silu,
  softplus,
  sin,
  dropout,
  add,
  scale,
  gram,
  dual,
  fold,
  folded,
};

// Whether an op is a matrix product.
constexpr bool multiplies(OpKind kind) {
  return kind == OpKind::linear || kind == OpKind::gram || kind == OpKind::dual ||
         kind == OpKind::fold || kind == OpKind::folded;
}

enum class LossKind : int32_t { none, mse, cross_entropy, bce_with_logits };

enum class Place : int32_t { input, fixed, active };

// Whose samples a pass is over. Both sides' passes have the same ops, but for layers that take
// another form for the query (fold.h).
enum class Side : int32_t { both, support, query };

struct Value {
  int64_t sample_size;  // numbers a sample
  int64_t task_size;    // and numbers a task, beside those
  Place place;
  int64_t sample_offset;  // in a frame of n samples it begins at sample_offset * n + task_offset
  int64_t task_offset;
};

struct Slot {
  int64_t size;
  bool adapted;
  int64_t offset;  // of an adapted slot in phi
};

struct Op {
  OpKind kind;
  Side side;             // whose passes it is part of
  int32_t input[2];      // values; the second only for add, dual and folded
  int32_t output;        // value
  int32_t statistics;    // value with two numbers a group, of norms; -1 elsewhere
  int32_t parameter[2];  // slots: weight, bias; -1 where absent
  int64_t rows;          // a sample is `rows` rows of
  int64_t in;            //   `in` numbers and gives rows of
  int64_t out;           //   `out` numbers
  double attribute[2];
  bool active;              // whether its output is an active value
  bool keeps_first;         // of sin: leaves its derivative where its input was
  bool first_input[2];      // the first in backward order to add to the input's cotangent
  bool first_parameter[2];  // likewise for the parameter's gradient
};

// Numbers of a frame.
struct FrameSize {
  int64_t sample, task;  // a sample, and beside those

  int64_t of(int64_t samples) const { return samples ? sample * samples + task : 0; }
};

// The frames of one side: of the fixed and of the active values.
struct Frames {
  FrameSize fixed, active;
};

struct Program {
  int32_t tasks;  // in lockstep (team.h): all sizes count the numbers of all of them
  const Op* ops;
  const Value* values;
  const Slot* slots;
  int32_t op_count;
  int32_t value_count;
  int32_t slot_count;
  int32_t output;        // value
  int64_t adapted_size;  // numbers in phi
  Frames support, query;
  LossKind loss;
  double label_smoothing;
};

}  // namespace fastmaml
