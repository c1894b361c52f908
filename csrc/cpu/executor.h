// Runs a call over all its tasks, as it is planned.
#pragma once

#include <vector>

#include "../program/call.h"
#include "interruption.h"
#include "run_plan.h"

namespace fastmaml {

// The inner loop of every task and its gradients, or with `vectors` their Hessian products. The
// plan is that of this call, or of one like it.
//
// Results are bitwise the same for any number of threads; so are those of one task whatever the
// other tasks hold, and sums over tasks are in an order that the number of tasks alone decides.
//
// While it runs, `interrupt` is asked on this thread, some 20 times a second and between inner
// steps. When it says true, this throws Interrupted: nothing runs any more, results are undefined.
template <class Real>
void run(const Call<Real>& call, const std::vector<SummedGradient<Real>>& summed,
         const RunPlan<Real>& plan, Interrupt interrupt = nullptr);

}  // namespace fastmaml
