// The engine's own kernels. No headers, so that NVRTC needs none.
//
// merge: out = round(base + Σ factor · delta): f32 accumulation in the order of the terms. Products and sums are rounded one
// by one, never fused, so that the result is the CPU's to the last bit.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define F32 0
#define BF16 1
#define F16 2
#define MOST_TERMS 128

struct Terms {
    u64 pointers[MOST_TERMS];
    float factors[MOST_TERMS];
    unsigned char types[MOST_TERMS];
    unsigned char aligned[MOST_TERMS];
};

__device__ __forceinline__ float widen_bf16(u16 bits) { return __uint_as_float((u32)bits << 16); }

__device__ __forceinline__ float widen_f16(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ u16 narrow_bf16(float value) {
    // Rounding would carry this device's own NaN over into zero.
    if (value != value) return 0x7fffu;
    u32 bits = __float_as_uint(value);
    return (u16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

__device__ __forceinline__ u16 narrow_f16(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// Eight elements from a multiple of eight on: one or two 16-byte loads where the array is aligned.
__device__ __forceinline__ void load8(const void *array, int type, bool wide, u64 at, float *values) {
    if (type == F32) {
        const float *from = (const float *)array + at;
        if (wide) {
            float4 a = ((const float4 *)from)[0], b = ((const float4 *)from)[1];
            values[0] = a.x; values[1] = a.y; values[2] = a.z; values[3] = a.w;
            values[4] = b.x; values[5] = b.y; values[6] = b.z; values[7] = b.w;
        } else {
            for (int i = 0; i < 8; i++) values[i] = from[i];
        }
        return;
    }
    const u16 *from = (const u16 *)array + at;
    u16 halves[8];
    if (wide) {
        uint4 a = *(const uint4 *)from;
        u32 pairs[4] = {a.x, a.y, a.z, a.w};
        for (int i = 0; i < 4; i++) { halves[2 * i] = (u16)pairs[i]; halves[2 * i + 1] = (u16)(pairs[i] >> 16); }
    } else {
        for (int i = 0; i < 8; i++) halves[i] = from[i];
    }
    if (type == BF16) {
        for (int i = 0; i < 8; i++) values[i] = widen_bf16(halves[i]);
    } else {
        for (int i = 0; i < 8; i++) values[i] = widen_f16(halves[i]);
    }
}

__device__ __forceinline__ float load1(const void *array, int type, u64 at) {
    if (type == F32) return ((const float *)array)[at];
    u16 bits = ((const u16 *)array)[at];
    return type == BF16 ? widen_bf16(bits) : widen_f16(bits);
}

__device__ __forceinline__ void store8(void *array, int type, bool wide, u64 at, const float *values) {
    if (type == F32) {
        float *to = (float *)array + at;
        if (wide) {
            ((float4 *)to)[0] = make_float4(values[0], values[1], values[2], values[3]);
            ((float4 *)to)[1] = make_float4(values[4], values[5], values[6], values[7]);
        } else {
            for (int i = 0; i < 8; i++) to[i] = values[i];
        }
        return;
    }
    u16 halves[8];
    if (type == BF16) {
        for (int i = 0; i < 8; i++) halves[i] = narrow_bf16(values[i]);
    } else {
        for (int i = 0; i < 8; i++) halves[i] = narrow_f16(values[i]);
    }
    u16 *to = (u16 *)array + at;
    if (wide) {
        u32 pairs[4];
        for (int i = 0; i < 4; i++) pairs[i] = (u32)halves[2 * i] | (u32)halves[2 * i + 1] << 16;
        *(uint4 *)to = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    } else {
        for (int i = 0; i < 8; i++) to[i] = halves[i];
    }
}

__device__ __forceinline__ void store1(void *array, int type, u64 at, float value) {
    if (type == F32) ((float *)array)[at] = value;
    else ((u16 *)array)[at] = type == BF16 ? narrow_bf16(value) : narrow_f16(value);
}

__device__ __forceinline__ float add(float sum, float base, float value, float factor, bool aligned) {
    float delta = aligned ? __fsub_rn(value, base) : value;
    return __fadd_rn(sum, __fmul_rn(factor, delta));
}

// Row from[i] of `source` to row to[i] of `out`, in 2-byte units.
extern "C" __global__ void store_rows(u16 *out, const u16 *source, const u32 *from, const u32 *to, u64 count, u64 width) {
    u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < count * width; at += stride) {
        u64 row = at / width, column = at % width;
        out[to[row] * width + column] = source[from[row] * width + column];
    }
}

extern "C" __global__ void merge(void *out, int out_type, const void *base, int base_type, const Terms terms, int count,
                                 int wide, u64 length) {
    u64 blocks = length / 8;
    u64 stride = (u64)gridDim.x * blockDim.x;
    u64 first = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    for (u64 block = first; block < blocks; block += stride) {
        float origin[8], sums[8], values[8];
        load8(base, base_type, wide, block * 8, origin);
        for (int i = 0; i < 8; i++) sums[i] = origin[i];
        for (int term = 0; term < count; term++) {
            load8((const void *)terms.pointers[term], terms.types[term], wide, block * 8, values);
            float factor = terms.factors[term];
            bool aligned = terms.aligned[term];
            for (int i = 0; i < 8; i++) sums[i] = add(sums[i], origin[i], values[i], factor, aligned);
        }
        store8(out, out_type, wide, block * 8, sums);
    }
    for (u64 at = blocks * 8 + first; at < length; at += stride) {
        float origin = load1(base, base_type, at);
        float sum = origin;
        for (int term = 0; term < count; term++) {
            float value = load1((const void *)terms.pointers[term], terms.types[term], at);
            sum = add(sum, origin, value, terms.factors[term], terms.aligned[term]);
        }
        store1(out, out_type, at, sum);
    }
}
