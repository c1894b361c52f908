// The extension module of the CUDA executor. It takes the programs and calls of fastmaml._native,
// whose tensors here are the device's; Python allocates them all, the workspace too.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../python/tensors.h"
#include "executor.h"
#include "source.h"

namespace py = pybind11;

namespace fastmaml {
namespace {

LaunchPlan plan_call(const ProgramOwner& program, const CallArgument& argument, int64_t tensors,
                     bool is_double, int device) {
  return is_double ? plan_launch<double>(program, argument, tensors, device)
                   : plan_launch<float>(program, argument, tensors, device);
}

void run_call(const LaunchPlan& plan, const CompiledKernel* compiled, const ProgramOwner& program,
              const CallArgument& argument, const py::list& tensors, uint32_t seed, bool is_double,
              Address workspace, Address stream) {
  const Tensors table(tensors);
  const py::gil_scoped_release no_gil;
  (is_double ? run<double> : run<float>)(plan, compiled, program, argument, table.addresses(), seed,
                                         workspace, stream);
}

}  // namespace

PYBIND11_MODULE(_native_cuda, m) {
  m.doc() = "The native executor's CUDA side; see fastmaml.executors.native.";
  m.attr("__version__") = FASTMAML_VERSION;
  m.attr("architectures") = FASTMAML_CUDA_ARCHITECTURES;
  py::module_::import("fastmaml._native");  // the types of programs and calls
  m.def("device_refusal", device_refusal, py::arg("device"),
        "Why this process cannot run on the device; empty if it can.");

  py::class_<LaunchPlan>(m, "LaunchPlan")
      .def(py::init<>())  // of no device: what `source` reads, to try it out
      .def_readwrite("log_lanes", &LaunchPlan::log_lanes)
      .def_readwrite("log_blocks", &LaunchPlan::log_blocks)
      .def_readwrite("scratch_size", &LaunchPlan::scratch_size)
      .def_readwrite("image_bytes", &LaunchPlan::image_bytes)
      .def_property_readonly("lanes", &LaunchPlan::lanes)
      .def_readwrite("fast_size", &LaunchPlan::fast_size)
      .def_readwrite("slow_size", &LaunchPlan::slow_size)
      .def_readwrite("blocks_together", &LaunchPlan::blocks_together)
      .def_property_readonly("blocks_a_task", &LaunchPlan::blocks_a_task)
      .def_readonly("teams", &LaunchPlan::teams)
      .def_readonly("workspace", &LaunchPlan::workspace);

  py::class_<CompiledKernel>(m, "CompiledKernel", "A kernel for the calls of one plan.")
      .def(py::init([](int device, const py::bytes& binary) {
             return std::make_unique<CompiledKernel>(device, std::string(binary));
           }),
           py::arg("device"), py::arg("binary"));
  m.def("source", compiled_source, py::arg("plan"), py::arg("program"), py::arg("call"),
        py::arg("tensors"), py::arg("is_double"),
        "The source of such a kernel, for NVRTC; it names no tensor.");
  m.def("architecture", architecture, py::arg("device"), "What it is to be compiled for.");

  m.def("plan", plan_call, py::arg("program"), py::arg("call"), py::arg("tensors"),
        py::arg("is_double"), py::arg("device"),
        "How calls of this description run on a device: decided once for all of them.");
  m.def("run", run_call, py::arg("plan"), py::arg("compiled").none(true), py::arg("program"),
        py::arg("call"), py::arg("tensors"), py::arg("seed"), py::arg("is_double"),
        py::arg("workspace"), py::arg("stream"),
        "Puts a call on a stream: the inner loop of every task and its gradients, or with vectors "
        "their Hessian products.");
}

}  // namespace fastmaml
