#include "analysis.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>

namespace fastmaml {
namespace {

// In the order of OpKind and LossKind; the names are those of the Python side.
constexpr const char* op_names[] = {
    "linear",  "batch_norm", "layer_norm", "rms_norm",  "relu", "leaky_relu", "elu",
    "tanh",    "sigmoid",    "gelu",       "gelu_tanh", "silu", "softplus",   "sin",
    "dropout", "add",        "scale",      "gram",      "dual", "fold",       "folded"};
constexpr const char* loss_names[] = {"none", "mse", "cross_entropy", "bce_with_logits"};

template <class Kind, size_t count>
Kind kind_named(const char* const (&names)[count], const std::string& name) {
  const auto found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names)) throw std::invalid_argument("no kernel for '" + name + "'");
  return static_cast<Kind>(found - std::begin(names));
}

bool is_norm(OpKind kind) {
  return kind == OpKind::batch_norm || kind == OpKind::layer_norm || kind == OpKind::rms_norm;
}

// Whether the derivative of an op of this kind reads the op's output.
bool is_activation(OpKind kind) { return kind >= OpKind::relu && kind <= OpKind::sin; }

}  // namespace

std::vector<std::string> op_kinds() { return {std::begin(op_names), std::end(op_names)}; }

LossKind loss_kind(const std::string& name) { return kind_named<LossKind>(loss_names, name); }

ProgramOwner::ProgramOwner(const std::vector<OpDescription>& ops,
                           const std::vector<int64_t>& value_sizes,
                           const std::vector<SlotDescription>& slots, int32_t output,
                           const std::string& loss, double label_smoothing, bool input_active)
    : output_(output), loss_(loss_kind(loss)), label_smoothing_(label_smoothing) {
  for (const int64_t size : value_sizes) values_.push_back({size, 0, Place::fixed, 0, 0});
  for (const SlotDescription& slot : slots) {
    slots_.push_back({slot.size, slot.adapted, slot.adapted ? adapted_size_ : 0});
    if (slot.adapted) adapted_size_ += slot.size;
  }
  for (const OpDescription& d : ops) {
    Op op{};
    op.kind = kind_named<OpKind>(op_names, d.kind);
    op.side = d.side;
    std::copy_n(d.input, 2, op.input);
    op.output = d.output;
    op.statistics = -1;
    std::copy_n(d.parameter, 2, op.parameter);
    op.rows = d.rows;
    op.in = d.in;
    op.out = d.out;
    std::copy_n(d.attribute, 2, op.attribute);
    ops_.push_back(op);
  }
  find_active(input_active);
  add_task_values();
  place_values();
  for (const Side side : {Side::support, Side::query}) mark_first_contributions(side);
}

Program ProgramOwner::view() const {
  return {1,
          ops_.data(),
          values_.data(),
          slots_.data(),
          static_cast<int32_t>(ops_.size()),
          static_cast<int32_t>(values_.size()),
          static_cast<int32_t>(slots_.size()),
          output_,
          adapted_size_,
          support_,
          query_,
          loss_,
          label_smoothing_};
}

// Dropout is active wherever it stands, since each step draws another mask.
void ProgramOwner::find_active(bool input_active) {
  values_[0].place = Place::input;
  for (Op& op : ops_) {
    op.active = op.kind == OpKind::dropout;
    for (const int32_t value : op.input) {
      if (value < 0) continue;
      op.active |= values_[value].place == Place::active || (value == 0 && input_active);
    }
    for (const int32_t slot : op.parameter) op.active |= slot >= 0 && slots_[slot].adapted;
    values_[op.output].place = op.active ? Place::active : Place::fixed;
  }
}

void ProgramOwner::add_task_values() {
  for (Op& op : ops_) {
    if (op.kind == OpKind::fold) values_[op.output].task_size = op.in * op.out;
    if (!is_norm(op.kind)) continue;
    op.statistics = static_cast<int32_t>(values_.size());
    const Place place = values_[op.output].place;
    if (op.kind == OpKind::batch_norm) {
      values_.push_back({0, 2 * op.in, place, 0, 0});
    } else {
      values_.push_back({2 * op.rows, 0, place, 0, 0});
    }
  }
}

// Whether nobody needs an active input after the op, neither another op nor the one that made it.
bool ProgramOwner::is_last_to_need_input(const Op& op) const {
  const int32_t input = op.input[0];
  if (values_[input].place != Place::active || input == output_) return false;
  int readers = 0;
  bool is_read_by_maker = true;
  for (const Op& other : ops_) {
    for (const int32_t value : other.input) readers += value == input;
    if (other.output == input) is_read_by_maker = is_activation(other.kind);
  }
  return readers == 1 && !is_read_by_maker;
}

// Where an op of each side makes a value, it is of both.
std::vector<Side> ProgramOwner::sides_of_values() const {
  std::vector<bool> is_made(values_.size());
  std::vector<Side> sides(values_.size(), Side::both);
  for (const Op& op : ops_) {
    for (const int32_t value : {op.output, op.statistics}) {
      if (value < 0) continue;
      sides[value] = is_made[value] && sides[value] != op.side ? Side::both : op.side;
      is_made[value] = true;
    }
  }
  return sides;
}

void ProgramOwner::place_values() {
  std::vector<int32_t> place_of(values_.size(), -1);  // where it is another value's
  for (Op& op : ops_) {
    // The derivative of a relu is the same function of its output, and there is no second one. That
    // of a sine, kept, saves three cosines; its second is a function of the output.
    if (op.kind == OpKind::relu && is_last_to_need_input(op)) place_of[op.output] = op.input[0];
    op.keeps_first = op.kind == OpKind::sin && is_last_to_need_input(op);
  }
  const std::vector<Side> sides = sides_of_values();
  const auto place = [&](Side side, Frames& frames) {
    for (size_t v = 0; v < values_.size(); ++v) {
      Value& value = values_[v];
      if (sides[v] != side || value.place == Place::input || place_of[v] >= 0) continue;
      FrameSize& frame = value.place == Place::fixed ? frames.fixed : frames.active;
      value.sample_offset = frame.sample;
      value.task_offset = frame.task;
      frame.sample += value.sample_size;
      frame.task += value.task_size;
    }
  };
  place(Side::both, support_);
  query_ = support_;
  place(Side::support, support_);
  place(Side::query, query_);
  for (size_t v = 0; v < values_.size(); ++v) {
    if (place_of[v] < 0) continue;
    values_[v].sample_offset = values_[place_of[v]].sample_offset;
    values_[v].task_offset = values_[place_of[v]].task_offset;
  }
}

// Where a layer has other ops for either side, they read the same slots and values that others read
// too, so an op of both is first in both or in neither.
void ProgramOwner::mark_first_contributions(Side side) {
  std::vector<bool> value_seen(values_.size()), slot_seen(slots_.size());
  for (auto op = ops_.rbegin(); op != ops_.rend(); ++op) {
    if (op->side != Side::both && op->side != side) continue;
    for (int j = 0; j < 2; ++j) {
      if (op->input[j] >= 0) {
        op->first_input[j] = !value_seen[op->input[j]];
        value_seen[op->input[j]] = true;
      }
      if (op->parameter[j] >= 0) {
        op->first_parameter[j] = !slot_seen[op->parameter[j]];
        slot_seen[op->parameter[j]] = true;
      }
    }
  }
}

std::vector<uint8_t> ProgramOwner::wanted(bool input_wanted,
                                          const std::vector<bool>& slot_wanted) const {
  std::vector<uint8_t> wanted(values_.size());
  wanted[0] = input_wanted;
  for (const Op& op : ops_) {
    bool needed = op.active;
    for (const int32_t value : op.input) needed |= value >= 0 && wanted[value];
    for (const int32_t slot : op.parameter) needed |= slot >= 0 && slot_wanted[slot];
    wanted[op.output] = needed;
  }
  return wanted;
}

}  // namespace fastmaml
