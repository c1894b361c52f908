// Builds a Program from its ops: what is fixed and what is active, where every value lies, and
// which op adds first to a gradient.
#pragma once

#include <string>
#include <vector>

#include "program.h"

namespace fastmaml {

// An op as it is described from outside; see Op.
struct OpDescription {
  std::string kind;
  int32_t input[2];
  int32_t output;
  int32_t parameter[2];
  int64_t rows, in, out;
  double attribute[2];
  Side side = Side::both;
};

struct SlotDescription {
  int64_t size;
  bool adapted;
};

// The names of all kinds of ops.
std::vector<std::string> op_kinds();

// The loss of a name. Throws std::invalid_argument for one that is not known.
LossKind loss_kind(const std::string& name);

// A program and the arrays that it points to.
class ProgramOwner {
 public:
  // value_sizes: numbers a sample of each value; of a fold's output, which is a task's, 0.
  // input_active: the input has a tangent too.
  // Throws std::invalid_argument for a kind that is not known.
  ProgramOwner(const std::vector<OpDescription>& ops, const std::vector<int64_t>& value_sizes,
               const std::vector<SlotDescription>& slots, int32_t output, const std::string& loss,
               double label_smoothing, bool input_active);

  Program view() const;
  int32_t slot_count() const { return static_cast<int32_t>(slots_.size()); }
  int64_t output_size() const { return values_[output_].sample_size; }

  // One a value: whether its cotangent is needed, if those of the input and of the slots for
  // which `slot_wanted` holds are wanted, beside those of active values.
  std::vector<uint8_t> wanted(bool input_wanted, const std::vector<bool>& slot_wanted) const;

 private:
  void find_active(bool input_active);
  void add_task_values();
  bool is_last_to_need_input(const Op& op) const;
  std::vector<Side> sides_of_values() const;
  void place_values();
  void mark_first_contributions(Side side);

  std::vector<Op> ops_;
  std::vector<Value> values_;
  std::vector<Slot> slots_;
  int32_t output_;
  LossKind loss_;
  double label_smoothing_;
  int64_t adapted_size_ = 0;
  Frames support_{}, query_{};
};

}  // namespace fastmaml
