#include "source.h"

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
    to << '{' << kind("OpKind", op.kind) << ", " << pair(op.input) << ", " << op.output << ", "
       << op.statistics << ", " << pair(op.parameter) << ", " << op.rows << ", " << op.in << ", "
       << op.out << ", " << pair(op.attribute) << ", " << op.active << ", " << pair(op.first_input)
       << ", " << pair(op.first_parameter) << "},\n";
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

}  // namespace

std::string compiled_source(const LaunchPlan& plan, const ProgramOwner& program,
                            const CallArgument& argument, bool is_double) {
  std::ostringstream to;
  to << "#define FM_ISA compiled\n#define FM_COMPILED\n"
     << prelude << kernel_types << "namespace fastmaml::known {\n"
     << "using Real = " << (is_double ? "double" : "float") << ";\n"
     << "constexpr int64_t varies = -1;\n"
     << "constexpr bool is_all_shared = " << (plan.slow_size == 0) << ";\n";
  write_program(to, program.view());
  write_count(to, "support_samples", argument.support);
  write_count(to, "query_samples", argument.query);
  to << "constexpr int log_lanes = " << plan.log_lanes << ", log_blocks = " << plan.log_blocks
     << ", scratch_size = " << plan.scratch_size << ", blocks_together = " << plan.blocks_together
     << ", image_capacity = " << image_capacity(plan.image_bytes) << ";\n}\n"
     << kernel_headers;
  return to.str();
}

}  // namespace fastmaml
