// The extension module. A call is described once for all calls of the same shapes; its tensors come
// as a list, checked and kept alive by the Python side, of which only the addresses are read.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "../cpu/cpu_features.h"
#include "../cpu/passes.h"
#include "../cpu/run_plan.h"
#include "../cpu/thread_pool.h"
#include "../program/analysis.h"
#include "../program/call_builder.h"
#include "facts.h"
#include "numbers.h"
#include "recipe.h"
#include "signature.h"

namespace py = pybind11;

namespace fastmaml {
namespace {

// How a call of such sizes would run: how many tasks in lockstep, and why not. Its tensors matter
// only in whether they are there.
template <class Real>
std::pair<int, std::optional<std::string>> lockstep_as(const ProgramOwner& program,
                                                       const CallArgument& argument, double saved) {
  const std::vector<Address> addresses{0, alignof(std::max_align_t)};
  const CallOwner<Real> owner(program, argument, addresses, 0);
  const LockstepChoice choice = lockstep(owner.call(), saved);
  if (!choice.why_not) return {choice.width, std::nullopt};
  return {choice.width, choice.why_not};
}

std::vector<std::string> supported_isa_names() {
  std::vector<std::string> names;
  for (const Isa isa : supported_isas()) names.emplace_back(isa_name(isa));
  return names;
}

template <class Real>
void def_recipe(py::module_& m, const char* name) {
  py::class_<Recipe<Real>>(m, name, "A call's description, and how such calls run.")
      .def(py::init<const ProgramOwner&, const CallArgument&>(), py::arg("program"),
           py::arg("call"), py::keep_alive<1, 2>(), py::keep_alive<1, 3>())
      .def("run", &Recipe<Real>::run, py::arg("tensors"), py::arg("seed"), py::arg("threads"),
           "The inner loop of every task and its gradients, or with vectors their Hessian "
           "products. Ends early where a signal's handler raises.")
      .def("plan", &Recipe<Real>::plan, py::arg("tensors"), py::arg("threads"),
           "How a call with so many tensors runs: teams and threads, bytes of memory, of those "
           "what one team keeps of the inner steps, how many of them at a time (0: none), and "
           "of how many of the last of those it keeps activations.");
}

template <class Class, class Argument, class Field>
void def_fields(Class& c, std::initializer_list<std::pair<const char*, Field Argument::*>> fields) {
  for (const auto& [name, field] : fields) c.def_readwrite(name, field);
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "The native executor's C++ side; see fastmaml.executors.native.";
  m.attr("__version__") = FASTMAML_VERSION;
  m.def("isa", [] { return isa_name(selected_isa()); }, "The instruction set in use.");
  m.def("supported_isas", supported_isa_names, "What this processor can run, slowest first.");
  m.def("op_kinds", op_kinds, "The kinds of ops that have kernels.");
  m.def("facts_hold", facts_hold, py::arg("facts"), py::arg("freeze"),
        "Whether what was read of a model's modules is still so; see fastmaml.program.facts.");

  m.def("rouse", rouse,
        "Wakes the threads that the last call on the CPU took: another like it follows at once.");

  m.def("labels_within", labels_within, py::arg("tensor"), py::arg("classes"),
        "Whether every number of an int64 tensor on the CPU is one of 0..classes-1. False too of a "
        "tensor that cannot be read in one go.");
  m.def("is_free_of_nan", is_free_of_nan, py::arg("tensor"), py::arg("is_double"),
        "Whether no number of a float32 or float64 tensor on the CPU is NaN; likewise.");

  py::class_<Signature>(m, "Signature",
                        "What tells calls apart that differ in more than the numbers in their "
                        "tensors: shapes, dtypes, devices, and options themselves.")
      .def_static("of", Signature::of, py::arg("value"),
                  "That of a value; None of what can change otherwise, or is of another class.")
      .def(
          "fits", [](const Signature& self, py::handle value) { return self.fits(value.ptr()); },
          py::arg("value"), "Whether `value` has it too.");

  py::enum_<Side>(m, "Side")
      .value("both", Side::both)
      .value("support", Side::support)
      .value("query", Side::query);

  py::class_<OpDescription>(m, "Op").def(
      py::init([](std::string kind, std::array<int32_t, 2> input, int32_t output,
                  std::array<int32_t, 2> parameter, std::array<int64_t, 3> shape,
                  std::array<double, 2> attribute, Side side) {
        return OpDescription{std::move(kind),
                             {input[0], input[1]},
                             output,
                             {parameter[0], parameter[1]},
                             shape[0],
                             shape[1],
                             shape[2],
                             {attribute[0], attribute[1]},
                             side};
      }),
      py::arg("kind"), py::arg("input"), py::arg("output"), py::arg("parameter"), py::arg("shape"),
      py::arg("attribute"), py::arg("side") = Side::both);

  py::class_<ProgramOwner>(m, "Program")
      .def(py::init([](const std::vector<OpDescription>& ops, const std::vector<int64_t>& values,
                       const std::vector<std::pair<int64_t, bool>>& slots, int32_t output,
                       const std::string& loss, double label_smoothing, bool input_active) {
             std::vector<SlotDescription> descriptions;
             for (const auto& [size, adapted] : slots) descriptions.push_back({size, adapted});
             return std::make_unique<ProgramOwner>(ops, values, descriptions, output, loss,
                                                   label_smoothing, input_active);
           }),
           py::arg("ops"), py::arg("values"), py::arg("slots"), py::arg("output"), py::arg("loss"),
           py::arg("label_smoothing"), py::arg("input_active") = false);

  py::class_<SamplesArgument> samples(m, "Samples");
  samples.def(py::init<>())
      .def_readwrite("count", &SamplesArgument::count)
      .def_readwrite("size", &SamplesArgument::size);
  def_fields<py::class_<SamplesArgument>, SamplesArgument, Ref>(
      samples, {{"size_on_device", &SamplesArgument::size_on_device},
                {"x", &SamplesArgument::x},
                {"labels", &SamplesArgument::labels},
                {"target", &SamplesArgument::target},
                {"weights", &SamplesArgument::weights},
                {"x_grad", &SamplesArgument::x_grad},
                {"target_grad", &SamplesArgument::target_grad},
                {"weights_grad", &SamplesArgument::weights_grad}});

  py::class_<CallArgument> call(m, "Call");
  call.def(py::init<>())
      .def_readwrite("tasks", &CallArgument::tasks)
      .def_readwrite("steps", &CallArgument::steps)
      .def_readwrite("memory_budget", &CallArgument::memory_budget)
      .def_readwrite("momentum", &CallArgument::momentum)
      .def_readwrite("step_weights", &CallArgument::step_weights)
      .def_readwrite("first_order", &CallArgument::first_order)
      .def_readwrite("support", &CallArgument::support)
      .def_readwrite("query", &CallArgument::query)
      .def_readwrite("adapted", &CallArgument::adapted)
      .def_readwrite("differentiate", &CallArgument::differentiate)
      .def_readwrite("through_steps", &CallArgument::through_steps)
      .def_readwrite("adapted_bar", &CallArgument::adapted_bar)
      .def_readwrite("vectors", &CallArgument::vectors)
      .def_readwrite("products", &CallArgument::products)
      .def("add_parameter", [](CallArgument& self, Ref data, bool per_task,
                               Ref grad) { self.parameters.push_back({data, per_task, grad}); })
      .def("add_rate", [](CallArgument& self, Ref data, int64_t rows, int64_t elements, Ref grad) {
        self.rates.push_back({data, rows, elements, grad});
      });
  def_fields<py::class_<CallArgument>, CallArgument, Ref>(
      call, {{"task_loss", &CallArgument::task_loss},
             {"prediction", &CallArgument::prediction},
             {"task_loss_bar", &CallArgument::task_loss_bar},
             {"prediction_bar", &CallArgument::prediction_bar}});

  def_recipe<float>(m, "FloatRecipe");
  def_recipe<double>(m, "DoubleRecipe");

  m.def(
      "lockstep",
      [](const ProgramOwner& program, const CallArgument& call, bool is_double, double saved) {
        return is_double ? lockstep_as<double>(program, call, saved)
                         : lockstep_as<float>(program, call, saved);
      },
      py::arg("program"), py::arg("call"), py::arg("is_double"), py::arg("saved"),
      "How many tasks a vector has lanes for, and why tasks do not run in lockstep; None if they "
      "do, if another form would save so many seconds a task. Of the call's tensors, index 1 is "
      "one that is there.");

  py::class_<PassesArgument> passes(m, "Passes");
  passes.def(py::init<>())
      .def_readwrite("samples", &PassesArgument::samples)
      .def_readwrite("seed", &PassesArgument::seed)
      .def_readwrite("task", &PassesArgument::task)
      .def_readwrite("pass_index", &PassesArgument::pass);
  def_fields<py::class_<PassesArgument>, PassesArgument, Address>(
      passes, {{"x", &PassesArgument::x},
               {"x_dot", &PassesArgument::x_dot},
               {"w", &PassesArgument::w},
               {"w_dot", &PassesArgument::w_dot},
               {"y_bar", &PassesArgument::y_bar},
               {"y_bar_dot", &PassesArgument::y_bar_dot},
               {"y", &PassesArgument::y},
               {"y_dot", &PassesArgument::y_dot},
               {"x_bar", &PassesArgument::x_bar},
               {"x_bar_dot", &PassesArgument::x_bar_dot},
               {"w_bar", &PassesArgument::w_bar},
               {"w_bar_dot", &PassesArgument::w_bar_dot}});
  m.def(
      "passes",
      [](const ProgramOwner& program, const PassesArgument& argument, bool is_double) {
        is_double ? run_passes<double>(program, argument) : run_passes<float>(program, argument);
      },
      py::arg("program"), py::arg("argument"), py::arg("is_double"),
      "The four functions of a program, for tests.");

  py::class_<LossPassesArgument> loss_passes(m, "LossPasses");
  loss_passes.def(py::init<>())
      .def_readwrite("kind", &LossPassesArgument::kind)
      .def_readwrite("label_smoothing", &LossPassesArgument::label_smoothing)
      .def_readwrite("samples", &LossPassesArgument::samples)
      .def_readwrite("features", &LossPassesArgument::features);
  def_fields<py::class_<LossPassesArgument>, LossPassesArgument, Address>(
      loss_passes, {{"prediction", &LossPassesArgument::prediction},
                    {"labels", &LossPassesArgument::labels},
                    {"target", &LossPassesArgument::target},
                    {"weights", &LossPassesArgument::weights},
                    {"prediction_dot", &LossPassesArgument::prediction_dot},
                    {"sample_loss", &LossPassesArgument::sample_loss},
                    {"prediction_bar", &LossPassesArgument::prediction_bar},
                    {"target_bar", &LossPassesArgument::target_bar},
                    {"sample_loss_dot", &LossPassesArgument::sample_loss_dot},
                    {"prediction_bar_dot", &LossPassesArgument::prediction_bar_dot},
                    {"target_bar_dot", &LossPassesArgument::target_bar_dot}});
  m.def(
      "loss_passes",
      [](const LossPassesArgument& argument, bool is_double) {
        is_double ? run_loss_passes<double>(argument) : run_loss_passes<float>(argument);
      },
      py::arg("argument"), py::arg("is_double"), "A loss and its derivatives, for tests.");
}

}  // namespace fastmaml
