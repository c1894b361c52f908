// Runs a call over all its tasks, on a number of threads.
#pragma once

#include <vector>

#include "../program/call.h"
#include "interruption.h"

namespace fastmaml {

// Results are bitwise the same for any number of threads; so are those of one task whatever the
// other tasks hold, and sums over tasks are in an order that the number of tasks alone decides.
//
// While they run, `interrupt` is asked on this thread, some 20 times a second and between inner
// steps. When it says true, they throw Interrupted: nothing runs any more, results are undefined.
//
// They throw std::invalid_argument, before anything runs, where a call does not fit its budget.
template <class Real>
void run(const Call<Real>& call, const std::vector<SummedGradient<Real>>& summed, int threads,
         Interrupt interrupt = nullptr);

template <class Real>
void hessian_vector_products(const Call<Real>& call, int threads, Interrupt interrupt = nullptr);

}  // namespace fastmaml
