// Neighbouring tiles that keep pace.
//
// Where rows of tensors do not begin at lines of 128 bytes, tiles share lines of memory, and sectors of 32 bytes too if
// rows do not begin at those. Left alone, thread blocks drift apart by up to a third of the kernel's time. L2 then holds
// nothing of what the neighbour needs: shared sectors are read twice, and one of which each tile wrote a part is read back
// to be completed. So a tile waits where it is more than a turn of its warps ahead of a tile beside it.
//
// Each tile leaves its turn in device memory, which is zero before it begins: nobody waits for a tile that has not begun, or
// has ended, and of two neighbours only the one ahead waits. Their turns are asked for in one turn and looked at in the
// next, since L2, busy with all that the kernel moves, takes most of a turn to answer. No result depends on any of this.
#pragma once
#include "arguments.cuh"
#include "others.cuh"

template <class C>
class Pace {
    static constexpr int ENDED = 1 << 30, WORDS = 8;  // a sector for each tile

    u32 *own, *left, *right;  // null: no such neighbour
    int turn, of_left, of_right;
    bool keeps;  // one lane of the tile

  public:
    // `first`: the first chunk of the warp.
    DEVICE Pace(const Arguments& arguments, const Tile<C>& tile, int first) {
        if constexpr (C::PACED) {
            own = (u32*)arguments.exchange + (i64)tile.number * WORDS;
            left = tile.n0 > 0 ? own - WORDS : nullptr;
            right = tile.n0 + Tile<C>::BLOCKS < arguments.N ? own + WORDS : nullptr;
            turn = of_left = of_right = 0;
            keeps = first == 0 && threadIdx.x % 32 == 0;
        }
    }
    // Once a turn of each warp; all its lanes.
    DEVICE void keep() {
        if constexpr (C::PACED) {
            if (keeps) {
                tell(++turn);
                while (far_behind(of_left) || far_behind(of_right)) look();
                look();
            }
            __syncwarp();
        }
    }
    DEVICE void end() {
        if constexpr (C::PACED)
            if (keeps) tell(ENDED);
    }

  private:
    DEVICE bool far_behind(int other) const { return other > 0 && other < turn - 1; }
    DEVICE void tell(int x) {
        const u32 word = x;
        store_for_others<1>(own, &word);
    }
    DEVICE void look() {
        u32 word = 0;
        if (left) load_of_others<1>(left, &word);
        of_left = word;
        word = 0;
        if (right) load_of_others<1>(right, &word);
        of_right = word;
    }
};
