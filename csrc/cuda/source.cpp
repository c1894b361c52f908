#include "source.h"

#include <concepts>
#include <sstream>

#include "image.h"
#include "joined_headers.h"

namespace fastmaml {
namespace {

// Floats to the last bit.
template <class T>
std::string pair(const T (&values)[2]) {
  std::ostringstream text;
  text << std::hexfloat << '{' << values[0] << ", " << values[1] << '}';
  return text.str();
}

template <class Kind>
std::string kind(const char* name, Kind value) {
  return std::string(name) + '(' + std::to_string(static_cast<int32_t>(value)) + ')';
}

// An array in C++ has an element: one of zeros where the program has none.
template <class T, class Write>
void write_array(std::ostream& to, const char* type, const char* name, const T* begin,
                 int32_t count, Write write) {
  to << "__device__ constexpr " << type << ' ' << name << "[] = {\n";
  for (int32_t i = 0; i < count; ++i) write(begin[i]);
  to << (count ? "};\n" : "{}};\n");
}

// A field more would be written as zero.
static_assert(sizeof(Op) == 80 && sizeof(Value) == 40 && sizeof(Slot) == 24);

void write_program(std::ostream& to, const Program& program) {
  write_array(to, "Op", "ops", program.ops, program.op_count, [&](const Op& op) {
    to << '{' << kind("OpKind", op.kind) << ", " << kind("Side", op.side) << ", " << pair(op.input)
       << ", " << op.output << ", " << op.statistics << ", " << pair(op.parameter) << ", "
       << op.rows << ", " << op.in << ", " << op.out << ", " << pair(op.attribute) << ", "
       << op.active << ", " << op.keeps_first << ", " << pair(op.first_input) << ", "
       << pair(op.first_parameter) << "},\n";
  });
  write_array(to, "Value", "values", program.values, program.value_count, [&](const Value& value) {
    to << '{' << value.sample_size << ", " << value.task_size << ", " << kind("Place", value.place)
       << ", " << value.sample_offset << ", " << value.task_offset << "},\n";
  });
  write_array(to, "Slot", "slots", program.slots, program.slot_count, [&](const Slot& slot) {
    to << '{' << slot.size << ", " << slot.adapted << ", " << slot.offset << "},\n";
  });
  to << "constexpr int op_count = " << program.op_count << ";\n"
     << "constexpr LossKind loss = " << kind("LossKind", program.loss) << ";\n";
}

void write_count(std::ostream& to, const char* name, const SamplesArgument& samples) {
  const bool varies = samples.size || samples.size_on_device;
  to << "constexpr int64_t " << name << " = "
     << (varies ? std::string("varies") : std::to_string(samples.x ? samples.count : 0)) << ";\n";
}

// Assignments to what the calls of one plan have in common.
class Told {
 public:
  explicit Told(std::ostream& to) : to_(to) {}

  void number(const std::string& name, double value) {
    to_ << "  " << name << " = " << std::hexfloat << value << std::defaultfloat << ";\n";
  }
  void number(const std::string& name, std::integral auto value) {
    to_ << "  " << name << " = " << value << ";\n";
  }
  // Whether there is something at all; where it is, only the call knows.
  void presence(const std::string& name, const void* pointer) {
    if (pointer) {
      to_ << "  __builtin_assume(" << name << " != nullptr);\n";
    } else {
      to_ << "  " << name << " = nullptr;\n";
    }
  }

 private:
  std::ostream& to_;
};

template <class Real>
void tell_samples(Told& told, const std::string& name, const Samples<Real>& samples) {
  told.number(name + ".count", samples.count);
  told.presence(name + ".size", samples.size);
  told.presence(name + ".x", samples.x);
  told.presence(name + ".labels", samples.labels);
  told.presence(name + ".target", samples.target);
  told.presence(name + ".weights", samples.weights);
  told.presence(name + ".x_grad", samples.x_grad);
  told.presence(name + ".target_grad", samples.target_grad);
  told.presence(name + ".weights_grad", samples.weights_grad);
}

void tell_program(Told& told, const Program& program) {
  told.number("call.program.tasks", program.tasks);
  told.number("call.program.op_count", program.op_count);
  told.number("call.program.value_count", program.value_count);
  told.number("call.program.slot_count", program.slot_count);
  told.number("call.program.output", program.output);
  told.number("call.program.adapted_size", program.adapted_size);
  told.number("call.program.label_smoothing", program.label_smoothing);
}

// Not fuse_adjoint, which depends on which rates are one tensor.
template <class Real>
void tell_call(Told& told, const Call<Real>& call) {
  told.number("call.steps", call.steps);
  told.number("call.momentum", call.momentum);
  told.number("call.weighs_steps", call.weighs_steps);
  told.number("call.first_order", call.first_order);
  tell_samples(told, "call.support", call.support);
  tell_samples(told, "call.query", call.query);
  told.number("call.output_size", call.output_size);
  told.presence("call.task_loss", call.task_loss);
  told.presence("call.prediction", call.prediction);
  told.presence("call.adapted", call.adapted);
  told.number("call.differentiate", call.differentiate);
  told.number("call.through_steps", call.through_steps);
  told.presence("call.task_loss_bar", call.task_loss_bar);
  told.presence("call.prediction_bar", call.prediction_bar);
  told.presence("call.adapted_bar", call.adapted_bar);
  told.number("call.summed_size", call.summed_size);
  told.presence("call.vectors", call.vectors);
  told.presence("call.products", call.products);
  told.number("call.keep_phi", call.keep_phi);
  told.number("call.keep_states", call.keep_states);
  told.number("call.segment", call.segment);
  told.number("call.fuse_step", call.fuse_step);
  told.number("call.query_starts_v", call.query_starts_v);
}

void tell_places(Told& told, const std::string& name, const Places& places) {
  told.number(name + ".segment", places.segment);
  told.number(name + ".checkpoints", places.checkpoints);
  told.number(name + ".ring", places.ring);
}

void tell_workspace(Told& told, const Workspace& workspace) {
  const auto tell = [&](const char* name, int64_t value) {
    told.number(std::string("workspace.") + name, value);
  };
  tell("phi", workspace.phi);
  tell("states", workspace.states);
  tell("v", workspace.v);
  tell("r", workspace.r);
  tell("u", workspace.u);
  tell("support_fixed", workspace.support_fixed);
  tell("query_fixed", workspace.query_fixed);
  tell("fixed_bars", workspace.fixed_bars);
  tell("query_fixed_bar", workspace.query_fixed_bar);
  tell("fixed_bars_size", workspace.fixed_bars_size);
  tell("tape", workspace.tape);
  tell("dot", workspace.dot);
  tell("query_values", workspace.query_values);
  tell("bar_dot", workspace.bar_dot);
  tell("query_bars", workspace.query_bars);
  tell("sample_loss", workspace.sample_loss);
  tell("size", workspace.size);
  tell("fast_size", workspace.fast_size);
  tell_places(told, "workspace.phi_places", workspace.phi_places);
  tell_places(told, "workspace.state_places", workspace.state_places);
  tell("phi_stride", workspace.phi_stride);
  tell("tape_steps", workspace.tape_steps);
  tell("tape_stride", workspace.tape_stride);
  tell("trajectory", workspace.trajectory);
}

void write_flags(std::ostream& to, const char* name, const uint8_t* flags, int32_t count) {
  write_array(to, "bool", name, flags, count,
              [&](uint8_t flag) { to << (flag ? "true, " : "false, "); });
}

template <class Real>
void write_call(std::ostream& to, const LaunchPlan& plan, const ProgramOwner& program,
                const CallArgument& argument, int64_t tensors) {
  const CallOwner<Real> owner(program, argument, any_addresses(tensors), 0);
  const Call<Real>& call = owner.call();
  const int32_t values = call.program.value_count;
  write_flags(to, "active", call.active, values);
  write_flags(to, "support_wanted", call.support.wanted, values);
  write_flags(to, "query_wanted", call.query.wanted, values);
  to << "template <class Call, class Workspace>\n"
     << "__device__ __forceinline__ void tell(Call& call, Workspace& workspace) {\n";
  Told told(to);
  tell_program(told, call.program);
  tell_call(told, call);
  tell_workspace(told, plan_workspace(call, plan.fast_size));
  to << "  call.program.slots = slots;\n}\n";
}

}  // namespace

std::string compiled_source(const LaunchPlan& plan, const ProgramOwner& program,
                            const CallArgument& argument, int64_t tensors, bool is_double) {
  std::ostringstream to;
  to << "#define FM_ISA compiled\n#define FM_COMPILED\n"
     << prelude << kernel_types << "namespace fastmaml::known {\n"
     << "using Real = " << (is_double ? "double" : "float") << ";\n"
     << "constexpr int64_t varies = -1;\n"
     << "constexpr bool is_all_shared = " << (plan.slow_size == 0) << ";\n";
  write_program(to, program.view());
  write_count(to, "support_samples", argument.support);
  write_count(to, "query_samples", argument.query);
  (is_double ? write_call<double> : write_call<float>)(to, plan, program, argument, tensors);
  to << "constexpr int log_lanes = " << plan.log_lanes << ", log_blocks = " << plan.log_blocks
     << ", scratch_size = " << plan.scratch_size << ", blocks_together = " << plan.blocks_together
     << ", image_capacity = " << image_capacity(plan.image_bytes) << ";\n}\n"
     << kernel_headers;
  return to.str();
}

}  // namespace fastmaml
