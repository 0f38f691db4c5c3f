"""Every choice about a training, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from wentu.settings import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """How to train."""

    epochs: int = option(
        3,
        "Passes over the training pairs; 0: keep the starting weights.",
        "训练轮数；0：保留起始权重。",
    )
    batch_size: int = option(
        64,
        "Pairs in a step, over all processes together.",
        "每步的图文对数(所有进程合计)。",
    )
    chunk: int = option(
        0,
        "Pairs that a device computes at once; smaller needs less memory and more time, for the "
        "gradient of the same batch. 0: all of its share.",
        "每个设备一次计算的图文对数；越小越省显存、越慢，梯度仍是整批的。0：一次算完它的一份。",
        shapes=False,
    )
    learning_rate: float = option(
        0.0,
        "Peak learning rate. 0: 1.25e-5 for a batch of 64 from pretrained weights, 1e-3 from "
        "random ones and with --lora, growing with the square root of the batch.",
        "最高学习率。0：批大小为 64 时，预训练权重用 1.25e-5，随机权重与 --lora 用 1e-3，"
        "随批大小的平方根增大。",
    )
    warmup: float = option(
        0.1,
        "Share of all steps in which the learning rate rises to its peak.",
        "学习率上升阶段占全部步数的比例。",
    )
    weight_decay: float = option(0.05, "On matrices only.", "权重衰减，只作用于矩阵。")
    layer_decay: float = option(
        1.0,
        "Each layer learns this much slower than the one above it; 0.75 to 0.9 keep more of the "
        "start.",
        "每层的学习率是其上一层的多少倍；0.75 至 0.9 更多地保留起始权重。",
    )
    clip_norm: float = option(1.0, "Gradients are clipped to this norm.", "梯度裁剪的范数。")
    loss: str = option(
        "softmax",
        "softmax: each caption among all pictures of the batch (CLIP). sigmoid: each pair for "
        "itself (SigLIP).",
        "softmax：描述与批内所有图片比较(CLIP)。sigmoid：每个图文对单独判断(SigLIP)。",
        choices=("softmax", "sigmoid"),
    )
    positives: str = option(
        "share",
        "Captions of one picture in a batch, and one caption of several: share: all of them are "
        "right. ignore: they are left out. diagonal: they are taken for wrong, as in Chinese-CLIP.",
        "同批内同一图片的多条描述、同一描述的多张图片：share：都算对。ignore：不参与比较。"
        "diagonal：当作错误，与 Chinese-CLIP 相同。",
        choices=("share", "ignore", "diagonal"),
    )
    sampler: str = option(
        "apart",
        "apart: what belongs together comes into different batches, where it can. random: "
        "as it falls.",
        "apart：尽量把互相匹配的分到不同批次。random：完全随机。",
        choices=("apart", "random"),
    )
    augment: str = option(
        "none",
        "crop: random crops of 90 to 100 % of a picture. view: larger changes of frame, angle, "
        "light and colour, for names with one picture each. Never flips.",
        "crop：随机裁剪 90–100 % 的区域。view：构图、角度、光线与色彩变化更大，"
        "用于每个名称只有一张图片的情形。不做翻转。",
        choices=("none", "crop", "view"),
    )
    flip: bool = option(
        False,
        "Mirror pictures at random: only where neither text nor left and right matter.",
        "随机左右翻转：仅当图片中的文字与左右方向无关紧要时使用。",
    )
    resize: str = option(
        "auto",
        "How pictures become square: squash (whole, distorted), crop (the middle), pad (whole, "
        "with margins); auto: as the model was made, squash for Chinese-CLIP.",
        "图片如何变为正方形：squash(整图压缩)、crop(居中裁剪)、pad(整图加边);"
        "auto：按模型原来的方式，Chinese-CLIP 为 squash。",
        choices=("auto", "squash", "crop", "pad"),
    )
    patch_dropout: float = option(
        0.0,
        "Share of a picture's patches that a step leaves out (FLIP), to be faster.",
        "每步随机丢弃的图块比例(FLIP)，以加快训练。",
    )
    unmasked: float = option(
        0.1,
        "Share of the steps at the end in which no patch is left out.",
        "训练末尾不丢弃图块的步数比例。",
    )
    freeze: str = option(
        "none",
        "A tower that keeps its weights.",
        "保持权重不变的塔。",
        choices=("none", "vision", "text"),
    )
    lora: int = option(
        0,
        "Train additions of this rank to the matrices instead of the matrices; 0: the matrices.",
        "只训练矩阵的低秩增量，此为其秩；0：训练矩阵本身。",
    )
    ema: float = option(
        0.0,
        "What comes out is a moving average of the weights with this decay; 0.999 for some "
        "thousand steps. 0: the weights themselves.",
        "输出权重的滑动平均，此为衰减系数；几千步时用 0.999。0：不平均。",
    )
    interpolate: bool = option(
        True,
        "Try averages of the starting and the trained weights too, on the valid split.",
        "同时在验证集上尝试起始权重与训练后权重的插值。",
    )
    patience: int = option(
        5,
        "Stop after so many epochs without a better recall on the valid split; 0: never, as from "
        "random weights.",
        "验证集召回率连续这么多轮没有提高时停止；0：不提前停止；随机权重训练时从不提前停止。",
    )
    teacher: str = option(
        "",
        "A larger model's checkpoint, whose similarities are learned too.",
        "较大模型的检查点，同时学习它的相似度。",
    )
    distill: float = option(
        0.5,
        "Share of the teacher's similarities in the loss.",
        "教师相似度在损失中所占的比例。",
    )
    seed: int = option(0, "Of order, augmentation, and random weights.", "随机种子。")
    precision: str = option(
        "auto",
        "auto: bf16 on a device that has it, else fp16; fp32 on the CPU.",
        "auto：设备支持时用 bf16，否则 fp16;CPU 用 fp32。",
        choices=("auto", "bf16", "fp16", "fp32"),
    )
    checkpointing: bool = option(
        False,
        "Compute activations twice instead of keeping them: much less memory, a third more work.",
        "激活值重算而不保存：显存大减，计算量多三分之一。",
        shapes=False,
    )
    compile: bool = option(
        False,
        "torch.compile the towers: faster after some minutes; needs a C++ compiler.",
        "用 torch.compile 编译两塔：几分钟后更快；需要 C++ 编译器。",
        shapes=False,
    )
    device: str = option(
        "auto",
        "auto: the accelerator that torch finds, else cpu. Or its name: cuda, mps, xpu, npu, sdaa.",
        "auto：torch 找到的加速卡，否则 cpu。也可指定：cuda、mps、xpu、npu、sdaa。",
        shapes=False,
    )
    plugin: str = option(
        "",
        "Package to import first, which brings a device to torch, such as torch_npu.",
        "先导入的包，用于让 torch 支持某种设备，例如 torch_npu。",
        shapes=False,
    )
    nproc: int = option(
        0,
        "Processes on this machine; 0: one for each accelerator, one on the CPU.",
        "本机进程数；0：每张加速卡一个，CPU 上一个。",
        shapes=False,
    )
    nodes: int = option(
        1,
        "Machines of a cluster that train together, each with --nproc processes; more than 1: as a "
        "Kubeflow TrainJob, with `wentu submit` only.",
        "共同训练的集群机器数，每台 --nproc 个进程；大于 1 时以 Kubeflow TrainJob 运行，"
        "仅用于 wentu submit。",
        shapes=False,
    )
    dist_backend: str = option(
        "auto",
        "How processes talk: auto: as the device's own, gloo on the CPU.",
        "进程间通信方式：auto：设备自带的；CPU 用 gloo。",
        shapes=False,
    )
    save_seconds: float = option(
        60.0,
        "Seconds between saves of the training state.",
        "训练状态的保存间隔(秒)。",
        shapes=False,
    )

    def check(self) -> None:
        least = {"epochs": 0, "batch_size": 2, "chunk": 0, "lora": 0, "patience": 0, "nproc": 0}
        least["nodes"] = 1
        for name, number in least.items():
            self.need(
                getattr(self, name) >= number,
                name,
                f"give {number} or more.",
                f"应为 {number} 或更大。",
            )
        self.need_share("warmup", "patch_dropout", "ema", below=True)
        self.need_share("unmasked", "distill")
        self.need(
            self.loss == "softmax" or self.positives == "share",
            "positives",
            "with --loss sigmoid all that belongs together is right.",
            "使用 --loss sigmoid 时，互相匹配的都算对。",
        )
        self.need(
            not (self.compile and self.patch_dropout),
            "compile",
            "not with --patch-dropout, whose number of patches changes on the way.",
            "不能与 --patch-dropout 同用，图块数会在训练中改变。",
        )
        self.need(
            0 <= self.learning_rate < 1,
            "learning_rate",
            "give a number between 0 and 1.",
            "应在 0 与 1 之间。",
        )
        self.need(
            0 < self.layer_decay <= 1,
            "layer_decay",
            "give a factor from above 0 to 1.",
            "应大于 0 且不超过 1。",
        )
        self.need(self.weight_decay >= 0, "weight_decay", "give 0 or more.", "应为 0 或更大。")
        self.need(self.clip_norm > 0, "clip_norm", "give more than 0.", "应大于 0。")
        self.need(self.save_seconds >= 0, "save_seconds", "give 0 or more.", "应为 0 或更大。")
