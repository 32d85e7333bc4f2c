/* GELU as in vigmpi/kernels/fused_gelu.py, where it is derived: 2 gelu(SCALE x) / SCALE from the
   eighth power of a polynomial in |x|, accurate to 4e-7. A test compares the coefficients. */
#ifndef VIGMPI_GELU_H
#define VIGMPI_GELU_H

#define VIGMPI_SCALE 6.491047121

static const float VIGMPI_TAILS[] = {
    -0.999999998f, 0.647387536f,  1.466931727f,  0.201241906f, -2.917557745f,
    -0.412375229f, 4.877731332f, -3.920742623f,
};

static inline float vigmpi_scaled_gelu(float x)
{
    const float *t = VIGMPI_TAILS, end = (float)(6 / VIGMPI_SCALE);
    float magnitude = __builtin_fabsf(x);
    float m = magnitude > end ? end : magnitude; /* NaN stays NaN */
    float square = m * m;
    float low = (t[3] * m + t[2]) * square + (t[1] * m + t[0]);
    float high = ((m + t[7]) * m + t[6]) * square + (t[5] * m + t[4]);
    float root = high * (square * square) + low;
    root *= root;
    root *= root;
    root *= root;
    return x + magnitude * (1.0f - root);
}

#endif
