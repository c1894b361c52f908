#include "recipe.h"

#include <cstddef>
#include <vector>

#include "../cpu/executor.h"
#include "tensors.h"

namespace fastmaml {
namespace py = pybind11;
namespace {

// Handles the signals that have come, if this is the thread on which Python does so. True if a
// handler raised, as that of Ctrl-C does: the exception is then this thread's current one.
bool signal_raised() {
  const py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

}  // namespace

template <class Real>
void Recipe<Real>::run(const py::list& tensors, uint32_t seed, int threads) {
  const Tensors table(tensors);
  const CallOwner<Real> owner(program_, argument_, table.addresses(), seed);
  const std::shared_ptr<const RunPlan<Real>> plan = planned(owner.call(), threads);
  try {
    const py::gil_scoped_release no_gil;
    fastmaml::run(owner.call(), owner.summed(), *plan, signal_raised);
  } catch (const Interrupted&) {
    throw py::error_already_set();
  }
}

template <class Real>
std::tuple<int, int, int64_t, int64_t, int64_t, int64_t> Recipe<Real>::plan(int64_t tensors,
                                                                            int threads) const {
  const CallOwner<Real> owner(program_, argument_, any_addresses(tensors), 0);
  const RunPlan<Real> plan(owner.call(), threads);
  return {plan.teams,
          plan.teams * plan.lanes,
          plan.bytes(),
          plan.workspace.trajectory * int64_t{sizeof(Real)},
          plan.keeps_steps ? plan.segment : 0,
          plan.tape_steps};
}

// Made anew where the number of threads is another than the last time.
template <class Real>
std::shared_ptr<const RunPlan<Real>> Recipe<Real>::planned(const Call<Real>& call, int threads) {
  if (!plan_ || threads != threads_) {
    plan_ = std::make_shared<const RunPlan<Real>>(call, threads);
    threads_ = threads;
  }
  return plan_;
}

template class Recipe<float>;
template class Recipe<double>;

}  // namespace fastmaml
