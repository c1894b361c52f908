// Matrix products by a thread block: c = init + alpha * (a b + a' b'), each lane with a tile of c
// of 4 x 4 elements in registers.
//
// An element of c is summed in an order that depends on the shape and on the numbers of lanes and
// of blocks alone. A GPU divides and fetches instructions slowly: sizes are powers of two where
// they can be, and what is long stands in the code once.
#pragma once

#include "block_direct.h"
#include "block_staged.h"

namespace fastmaml::FM_ISA {

template <class Real, class Lanes>
FM_HD void block_gemm(Lanes& lanes, const BlockProduct<Real>& p) {
  constexpr int large = 32;
  if (p.m == 0 || p.n == 0) return;
  if (p.m >= large && p.n >= large && p.k >= large / 2) {
    StagedProduct<Real, Lanes>(lanes).run(p);
  } else {
    DirectProduct<Real, Lanes>(lanes).run(p);
  }
}

}  // namespace fastmaml::FM_ISA
