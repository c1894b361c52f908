// A call's description, and how such calls run: kept for all calls of the same shapes.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <tuple>

#include "../cpu/run_plan.h"
#include "../program/analysis.h"
#include "../program/call_builder.h"

namespace fastmaml {

// Its methods want the interpreter's lock. Threads may run one recipe at the same time: a run lets
// go of the lock once it has its plan.
template <class Real>
class Recipe {
 public:
  // Both must outlive this, and change no more.
  Recipe(const ProgramOwner& program, const CallArgument& argument)
      : program_(program), argument_(argument) {}

  void run(const pybind11::list& tensors, uint32_t seed, int threads);

  // Teams and threads, bytes of memory, of those what one team keeps of the inner steps, how many
  // of them at a time (0: none), and activations of how many of the last of those. `tensors`:
  // entries of the table.
  std::tuple<int, int, int64_t, int64_t, int64_t, int64_t> plan(int64_t tensors, int threads) const;

 private:
  std::shared_ptr<const RunPlan<Real>> planned(const Call<Real>& call, int threads);

  const ProgramOwner& program_;
  const CallArgument& argument_;
  std::shared_ptr<const RunPlan<Real>> plan_;  // the last one; null: none yet
  int threads_ = 0;                            // that it is for
};

}  // namespace fastmaml
