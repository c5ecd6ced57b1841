import pytest
from trainings import driven

LAZY = "import models.codecs.compressai_import as ours, sys\n"


def test_codecs_do_not_load_torch_geometric():
    driven(
        "-c",
        LAZY
        + "import models.codecs.bls2017\n"
        + "assert 'compressai.layers' in sys.modules\n"
        + "assert 'torch_geometric' not in sys.modules and 'compressai.datasets' not in sys.modules\n"
        + "assert 'scipy.stats._stats_py' not in sys.modules\n"
        + "import scipy, scipy.stats\n"
        + "assert scipy.stats is sys.modules['scipy.stats'] and round(scipy.stats.norm.ppf(0.975), 4) == 1.96\n"
        + "from scipy.stats import distributions, qmc\n"
        + "assert type(scipy.stats) is type(sys) and qmc.Sobol and distributions.norm is scipy.stats.norm\n",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [
        "import compressai; assert compressai.__version__ and compressai.zoo.image_models",
        "from compressai.zoo import image_models; assert image_models",
        "import compressai; assert compressai.available_entropy_coders() == ['ans']; compressai.models.FactorizedPrior",
        "from compressai.models import FactorizedPrior; assert FactorizedPrior(8, 12).update()",
        "import torch_geometric; from compressai import datasets; assert datasets.ImageFolder",
    ],
)
def test_the_rest_of_compressai_is_there_for_who_asks(use):
    driven(
        "-c",
        LAZY
        + use
        + "\nimport compressai\n"
        + "from compressai.layers import GDN\n"
        + "assert GDN is ours.GDN and sys.modules['compressai'] is compressai\n"
        + "compressai.datasets\n"
        + "assert 'torch_geometric' in sys.modules and type(compressai) is type(sys)\n"
        + "assert not hasattr(compressai, 'no_such_thing')\n",
    )


@pytest.mark.slow
def test_who_came_first_is_left_alone():
    driven(
        "-c",
        "import compressai\nbefore = dict(vars(compressai))\n" + LAZY + "assert dict(vars(compressai)) == before\n",
    )
