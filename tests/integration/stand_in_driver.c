/* A stand-in for the GPU's driver: the same interface over the memory of this process.
 *
 * Work is done when it is enqueued; between BeginCapture and EndCapture it is written down instead,
 * and done at each launch. Addresses are real ones, so what Python passes is really used: a wrong
 * argument is a wrong answer or a crash here as it would be there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500 };
enum { SET, COPY, COPY_2D };
#define LARGEST_ALLOCATION (1ull << 30)
#define MOST_OPERATIONS 4096

typedef struct {
    size_t srcXInBytes, srcY;
    int srcMemoryType;
    const void *srcHost;
    unsigned long long srcDevice;
    void *srcArray;
    size_t srcPitch, dstXInBytes, dstY;
    int dstMemoryType;
    void *dstHost;
    unsigned long long dstDevice;
    void *dstArray;
    size_t dstPitch, WidthInBytes, Height;
} Copy2D;
typedef struct { int kind; void *target; const void *source; size_t size; int value; Copy2D copy; } Operation;
typedef struct { int count; Operation operations[MOST_OPERATIONS]; } Graph;

static int context_marker, stream_marker;
static Graph *recording;
static __thread void *current;

static void perform(const Operation *op) {
    if (op->kind == SET) memset(op->target, op->value, op->size);
    if (op->kind == COPY) memcpy(op->target, op->source, op->size);
    if (op->kind == COPY_2D)
        for (size_t row = 0; row < op->copy.Height; row++)
            memcpy((char *)op->copy.dstDevice + row * op->copy.dstPitch,
                   (const char *)op->copy.srcDevice + row * op->copy.srcPitch, op->copy.WidthInBytes);
}
static int enqueue(Operation op, void *stream) {
    if (stream != &stream_marker || current != &context_marker) return INVALID;
    if (!recording) { perform(&op); return SUCCESS; }
    if (recording->count == MOST_OPERATIONS) return OUT_OF_MEMORY;
    recording->operations[recording->count++] = op;
    return SUCCESS;
}

int cuInit(unsigned flags) { return flags ? INVALID : SUCCESS; }
int cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { *device = 42; return ordinal ? INVALID : SUCCESS; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, "Stand-in", length);
    return device == 42 ? SUCCESS : INVALID;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : -1; /* compute capability, major and minor */
    return device == 42 ? SUCCESS : INVALID;
}
int cuDeviceTotalMem(size_t *bytes, int device) { *bytes = 8ull << 30; return device == 42 ? SUCCESS : INVALID; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &context_marker; return device == 42 ? SUCCESS : INVALID; }
int cuDevicePrimaryCtxRelease(int device) { return device == 42 ? SUCCESS : INVALID; }
int cuCtxSetCurrent(void *context) { current = context; return SUCCESS; }
int cuMemGetInfo(size_t *left, size_t *total) { *left = 1ull << 30; *total = 8ull << 30; return SUCCESS; }
int cuMemAlloc(unsigned long long *address, size_t size) {
    if (current != &context_marker) return INVALID;
    if (!size || size > LARGEST_ALLOCATION) return size ? OUT_OF_MEMORY : INVALID;
    void *memory = aligned_alloc(256, (size + 255) / 256 * 256);
    memset(memory, 0xAB, size); /* what lies there is anybody's */
    *address = (uintptr_t)memory;
    return SUCCESS;
}
int cuMemFree(unsigned long long address) { free((void *)(uintptr_t)address); return SUCCESS; }
int cuMemAllocHost(void **memory, size_t size) { *memory = calloc(1, size); return SUCCESS; }
int cuMemFreeHost(void *memory) { free(memory); return SUCCESS; }
int cuMemsetD8Async(unsigned long long target, unsigned char value, size_t size, void *stream) {
    return enqueue((Operation){.kind = SET, .target = (void *)target, .size = size, .value = value}, stream);
}
int cuMemcpyHtoDAsync(unsigned long long target, const void *source, size_t size, void *stream) {
    return enqueue((Operation){.kind = COPY, .target = (void *)target, .source = source, .size = size}, stream);
}
int cuMemcpyDtoHAsync(void *target, unsigned long long source, size_t size, void *stream) {
    return enqueue((Operation){.kind = COPY, .target = target, .source = (void *)source, .size = size}, stream);
}
int cuMemcpy2DAsync(const Copy2D *copy, void *stream) {
    if (copy->srcMemoryType != 2 || copy->dstMemoryType != 2) return INVALID; /* the device's */
    return enqueue((Operation){.kind = COPY_2D, .copy = *copy}, stream);
}
int cuStreamCreate(void **stream, unsigned flags) { *stream = &stream_marker; return flags == 1 ? SUCCESS : INVALID; }
int cuStreamDestroy(void *stream) { return stream == &stream_marker ? SUCCESS : INVALID; }
int cuStreamSynchronize(void *stream) { return stream == &stream_marker && !recording ? SUCCESS : INVALID; }
int cuStreamBeginCapture(void *stream, int mode) {
    recording = calloc(1, sizeof *recording);
    return stream == &stream_marker && mode == 1 ? SUCCESS : INVALID;
}
int cuStreamEndCapture(void *stream, void **graph) {
    *graph = recording;
    recording = NULL;
    return stream == &stream_marker && *graph ? SUCCESS : INVALID;
}
int cuGraphInstantiateWithFlags(void **program, void *graph, unsigned long long flags) {
    *program = malloc(sizeof(Graph));
    memcpy(*program, graph, sizeof(Graph));
    return flags ? INVALID : SUCCESS;
}
int cuGraphDestroy(void *graph) { free(graph); return SUCCESS; }
int cuGraphLaunch(void *program, void *stream) {
    Graph *recorded = program;
    if (stream != &stream_marker || recording) return INVALID;
    for (int i = 0; i < recorded->count; i++) perform(&recorded->operations[i]);
    return SUCCESS;
}
int cuGraphExecDestroy(void *program) { free(program); return SUCCESS; }

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    (void)version, (void)flags;
    Dl_info self;
    dladdr((void *)cuInit, &self);
    void *library = dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    *function = strcmp(name, "cuGetProcAddress") ? dlsym(library, name) : (void *)cuGetProcAddress_v2;
    if (status) *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}
