// Compiles HLSL with Microsoft's own libraries, found beside this program, as wgpu calls them.
//
//     hlslc.exe LIST
//
// Each line of LIST is `fxc PROFILE FILE`, `dxc PROFILE FILE`, or `dxc16 PROFILE FILE` where types of
// 16 bits are on; with `_debug` behind the first word it is compiled as in programs built for
// debugging, without optimization. The entry point is `main`. The answer to each is a line `ok FILE`
// or `error FILE`, the latter followed by the compiler's message, a tab before each of its lines.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#define D3DCOMPILE_DEBUG 0x1
#define D3DCOMPILE_SKIP_OPTIMIZATION 0x4
#define D3DCOMPILE_ENABLE_STRICTNESS 0x800

typedef HRESULT(WINAPI *CompileFxc)(const void *source, SIZE_T size, const char *name,
                                    const void *defines, void *include, const char *entry,
                                    const char *target, UINT flags, UINT effect_flags, void **code,
                                    void **errors);
typedef HRESULT(WINAPI *CreateDxc)(const GUID *class_id, const GUID *interface_id,
                                   void **object);

// COM objects as C sees them: a table of functions first, IUnknown's three in front.
typedef struct Object Object;
typedef struct {
    HRESULT(WINAPI *query)(Object *, const GUID *, void **);
    ULONG(WINAPI *add_reference)(Object *);
    ULONG(WINAPI *release)(Object *);
} Base;
// ID3DBlob and IDxcBlob have the same functions.
typedef struct {
    Base base;
    void *(WINAPI *pointer)(Object *);
    SIZE_T(WINAPI *size)(Object *);
} Blob;
typedef struct {
    const void *pointer;
    SIZE_T size;
    UINT encoding;
} Buffer;
// IDxcCompiler3
typedef struct {
    Base base;
    HRESULT(WINAPI *compile)(Object *, const Buffer *, const wchar_t **arguments, UINT count,
                             void *include, const GUID *, Object **result);
} Compiler;
// IDxcOperationResult, the front of IDxcResult
typedef struct {
    Base base;
    HRESULT(WINAPI *status)(Object *, HRESULT *);
    HRESULT(WINAPI *result)(Object *, Object **);
    HRESULT(WINAPI *errors)(Object *, Object **);
} Result;
struct Object {
    const void *functions;
};
#define CALL(Type, object, function, ...) \
    (((const Type *)(object)->functions)->function((object), ##__VA_ARGS__))
#define RELEASE(object) \
    if (object) ((const Base *)(object)->functions)->release(object)

static const GUID COMPILER_CLASS = {
    0x73e22d93, 0xe6ce, 0x47f3, {0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0}};
static const GUID COMPILER_3 = {
    0x228b4687, 0x5a6a, 0x4730, {0x90, 0x0c, 0x97, 0x02, 0xb2, 0x20, 0x3f, 0x54}};
static const GUID OPERATION_RESULT = {
    0xcedb484a, 0xd4e9, 0x445a, {0xb9, 0x91, 0xca, 0x21, 0xca, 0x15, 0x7d, 0xc2}};

static void *find(const char *library, const char *function) {
    HMODULE module = LoadLibraryA(library);
    void *address = module ? (void *)(uintptr_t)GetProcAddress(module, function) : NULL;
    if (!address) {
        fprintf(stderr, "%s in %s: error %lu\n", function, library, GetLastError());
        exit(2);
    }
    return address;
}

static void answer(const char *file, int good, Object *messages) {
    printf("%s %s\n", good ? "ok" : "error", file);
    if (!good && messages) {
        const char *text = CALL(Blob, messages, pointer);
        SIZE_T size = CALL(Blob, messages, size);
        int at_start = 1;
        for (SIZE_T i = 0; i < size && text[i]; i++) {
            if (at_start) putchar('\t');
            putchar(text[i]);
            at_start = text[i] == '\n';
        }
        if (!at_start) putchar('\n');
    }
    fflush(stdout);
}

static void fxc(const char *file, const char *profile, int is_debug, const char *source,
                SIZE_T size) {
    static CompileFxc compile;
    if (!compile) compile = (CompileFxc)find("d3dcompiler_47.dll", "D3DCompile");
    UINT flags = D3DCOMPILE_ENABLE_STRICTNESS;
    if (is_debug) flags |= D3DCOMPILE_DEBUG | D3DCOMPILE_SKIP_OPTIMIZATION;
    void *code = NULL, *errors = NULL;
    HRESULT status = compile(source, size, file, NULL, NULL, "main", profile, flags, 0, &code,
                             &errors);
    answer(file, SUCCEEDED(status) && code, errors);
    RELEASE((Object *)code);
    RELEASE((Object *)errors);
}

static void dxc(const char *file, const char *profile, int has_16_bits, int is_debug,
                const char *source, SIZE_T size) {
    static Object *compiler;
    if (!compiler) {
        CreateDxc create = (CreateDxc)find("dxcompiler.dll", "DxcCreateInstance");
        HRESULT status = create(&COMPILER_CLASS, &COMPILER_3, (void **)&compiler);
        if (FAILED(status)) {
            fprintf(stderr, "no IDxcCompiler3: %08lx\n", (unsigned long)status);
            exit(2);
        }
    }
    wchar_t target[16];
    mbstowcs(target, profile, 16);
    const wchar_t *arguments[11] = {L"-E",  L"main", L"-T", target, L"-HV", L"2018",
                                    L"-no-warnings", L"-Ges"};
    UINT count = 8;
    if (is_debug) {
        arguments[count++] = L"-Zi";
        arguments[count++] = L"-Od";
    }
    if (has_16_bits) arguments[count++] = L"-enable-16bit-types";
    Buffer buffer = {source, size, 65001 /* UTF-8 */};
    Object *result = NULL, *object = NULL, *errors = NULL;
    HRESULT status = CALL(Compiler, compiler, compile, &buffer, arguments, count, NULL,
                          &OPERATION_RESULT, &result);
    if (SUCCEEDED(status)) {
        CALL(Result, result, status, &status);
        CALL(Result, result, result, &object);
        CALL(Result, result, errors, &errors);
    }
    // wgpu takes any message for a failure.
    int silent = !errors || CALL(Blob, errors, size) <= 1;
    answer(file, SUCCEEDED(status) && object && CALL(Blob, object, size) > 0 && silent, errors);
    RELEASE(object);
    RELEASE(errors);
    RELEASE(result);
}

int main(int count, char **words) {
    FILE *list = count == 2 ? fopen(words[1], "r") : NULL;
    if (!list) {
        fprintf(stderr, "usage: hlslc.exe LIST\n");
        return 2;
    }
    char compiler[16], profile[16], file[256];
    while (fscanf(list, "%15s %15s %255s", compiler, profile, file) == 3) {
        FILE *input = fopen(file, "rb");
        char *source = malloc(1 << 20);
        if (!input || !source) {
            fprintf(stderr, "cannot read %s\n", file);
            return 2;
        }
        SIZE_T size = fread(source, 1, 1 << 20, input);
        int is_debug = strstr(compiler, "_debug") != NULL;
        if (!strncmp(compiler, "fxc", 3)) {
            fxc(file, profile, is_debug, source, size);
        } else {
            dxc(file, profile, !strncmp(compiler, "dxc16", 5), is_debug, source, size);
        }
        free(source);
        fclose(input);
    }
    fclose(list);
    return 0;
}
