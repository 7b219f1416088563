// A Vulkan driver that is lavapipe and says it is SwiftShader: the only software driver on which
// Chromium has WebGPU, and Chromium looks for it in its own folder. Unlike SwiftShader, lavapipe has
// 16-bit floats.
//
// Compiled with LAVAPIPE, the path of Mesa's library in quotes. Every function is lavapipe's own but
// the two that tell the properties of a device.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VISIBLE __attribute__((visibility("default")))
#define VENDOR_GOOGLE 0x1AE0
#define DEVICE_SWIFTSHADER 0xC0DE
#define TYPE_CPU 4

// The front of VkPhysicalDeviceProperties, and that of VkPhysicalDeviceProperties2.
typedef struct {
    uint32_t api_version, driver_version, vendor, device, type;
} Properties;
typedef struct {
    uint32_t structure;
    void *next;
    Properties properties;
} Properties2;

typedef void (*Function)(void);
typedef Function (*GetFunction)(void *instance, const char *name);

static GetFunction lavapipe, lavapipe_of_device;
static uint32_t (*lavapipe_negotiate)(uint32_t *version);
static void (*get_properties)(void *device, Properties *);
static void (*get_properties2)(void *device, Properties2 *);

static void rename_device(Properties *properties) {
    properties->vendor = VENDOR_GOOGLE;
    properties->device = DEVICE_SWIFTSHADER;
    properties->type = TYPE_CPU;
}

static void renamed_properties(void *device, Properties *properties) {
    get_properties(device, properties);
    rename_device(properties);
}

static void renamed_properties2(void *device, Properties2 *properties) {
    get_properties2(device, properties);
    rename_device(&properties->properties);
}

__attribute__((constructor)) static void load(void) {
    void *library = dlopen(LAVAPIPE, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        abort();
    }
    lavapipe = (GetFunction)dlsym(library, "vk_icdGetInstanceProcAddr");
    lavapipe_of_device = (GetFunction)dlsym(library, "vk_icdGetPhysicalDeviceProcAddr");
    lavapipe_negotiate =
        (uint32_t(*)(uint32_t *))dlsym(library, "vk_icdNegotiateLoaderICDInterfaceVersion");
    if (!lavapipe || !lavapipe_of_device || !lavapipe_negotiate) {
        fprintf(stderr, "%s is no Vulkan driver\n", LAVAPIPE);
        abort();
    }
}

static Function renamed(const char *name, Function function) {
    if (!function) return function;
    if (!strcmp(name, "vkGetPhysicalDeviceProperties")) {
        get_properties = (void (*)(void *, Properties *))function;
        return (Function)renamed_properties;
    }
    if (!strcmp(name, "vkGetPhysicalDeviceProperties2") ||
        !strcmp(name, "vkGetPhysicalDeviceProperties2KHR")) {
        get_properties2 = (void (*)(void *, Properties2 *))function;
        return (Function)renamed_properties2;
    }
    return function;
}

// What a Vulkan loader asks of a driver.
VISIBLE Function vk_icdGetInstanceProcAddr(void *instance, const char *name) {
    return renamed(name, lavapipe(instance, name));
}

VISIBLE Function vk_icdGetPhysicalDeviceProcAddr(void *instance, const char *name) {
    return renamed(name, lavapipe_of_device(instance, name));
}

VISIBLE uint32_t vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version) {
    return lavapipe_negotiate(version);
}
