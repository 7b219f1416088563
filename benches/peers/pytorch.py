"""What PyTorch does where evenkeel's benchmarks run: the steps of `cargo bench --bench step`, matrix
products, clipping with AdamW, and a copy. Medians; ratios are to be taken with figures of the same
machine and hour, as `cargo xtask bench-peers` does, which reads the lines of the form "name = time ms".

    python3 benches/peers/pytorch.py [cpu | cuda]
"""

import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

DEVICE = sys.argv[1] if len(sys.argv) > 1 else "cuda" if torch.cuda.is_available() else "cpu"
ON_GPU = DEVICE == "cuda"

# (vocabulary, context, layers, heads, width, batch), as in benches/step.rs
MODELS = {
    "0.8 M": (96, 64, 4, 4, 128, 8),
    "10.8 M": (96, 256, 6, 6, 384, 32),
    "124 M": (50257, 256, 12, 12, 768, 8),
}


def finish():
    if ON_GPU:
        torch.cuda.synchronize()


def milliseconds(run, repeats=20, warm_up=5):
    """The median of single runs, each waited for."""
    for _ in range(warm_up):
        run()
    finish()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        finish()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, steps, width = x.shape
        split = (batch, steps, self.heads, width // self.heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, steps, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, vocabulary, context, layers, heads, width):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.tokens.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def steps():
    for name, (vocabulary, context, layers, heads, width, batch) in MODELS.items():
        if not ON_GPU and name != "0.8 M":
            continue
        model = Gpt(vocabulary, context, layers, heads, width).to(DEVICE)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=ON_GPU)
        tokens = torch.randint(0, vocabulary, (batch, context), device=DEVICE)

        def step(half):
            with torch.autocast(DEVICE, torch.bfloat16, enabled=half):
                loss = model(tokens, tokens)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        for mode in ("f32", "tf32", "bf16") if ON_GPU else ("f32",):
            torch.backends.cuda.matmul.allow_tf32 = mode == "tf32"
            ms = milliseconds(lambda: step(mode == "bf16"), 15)
            case = f"step {name}" if mode == "f32" else f"step {name} {mode}"
            print(f"{case} = {ms:.3f} ms ({batch * context / ms * 1e3:,.0f} tokens/s)")
        torch.backends.cuda.matmul.allow_tf32 = False


def products():
    sizes = [(2048, 2048, 2048), (2048, 768, 768), (2048, 3072, 768), (768, 768, 2048)]
    small = [(512, 512, 512), (1024, 1024, 1024)]
    for rows, cols, inner in small + (sizes if ON_GPU else []):
        a, b = torch.randn(rows, inner, device=DEVICE), torch.randn(inner, cols, device=DEVICE)
        out = torch.empty(rows, cols, device=DEVICE)
        ms = milliseconds(lambda: [torch.matmul(a, b, out=out) for _ in range(16)]) / 16
        speed = 2e-9 * rows * cols * inner / ms
        print(f"matmul {rows} x {cols} x {inner} = {ms:.4f} ms ({speed:.3f} TFLOP/s in f32)")


def updates():
    for count, tensors in ((1_000_000, 148), (10_000_000, 1), (10_000_000, 148)):
        weights = [nn.Parameter(torch.randn(count // tensors, device=DEVICE)) for _ in range(tensors)]
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=ON_GPU, foreach=not ON_GPU)

        def update():
            torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
            optimizer.step()

        print(f"update {count // 1_000_000} M in {tensors} tensors = {milliseconds(update):.4f} ms")


def copy():
    x = torch.randn(10_000_000, device=DEVICE)
    y = torch.empty_like(x)
    ms = milliseconds(lambda: [y.copy_(x) for _ in range(16)]) / 16
    print(f"copy of 40 MB = {ms:.4f} ms ({8e-6 * x.numel() / ms:.1f} GB/s)")


torch.backends.cuda.matmul.allow_tf32 = False
device = torch.cuda.get_device_name() if ON_GPU else f"CPU, {torch.get_num_threads()} threads"
print(f"PyTorch {torch.__version__}: {device}")
copy()
products()
updates()
steps()
