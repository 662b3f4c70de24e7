"""Published methods: each one file of records for the parts of a `Strategy`.

    knowledge    OwnWeight, Smooth, TopK, ClassMeans    parts of the target
    wrong        SwapWrong, SkipWrong                   where the teacher is wrong
    decoupled    Decoupled                              label and wrong classes apart
    logits       LogitMatching, TAID
    flips        Flips                                  how outputs change with a bit
    extraction   Features                               the teacher's hidden layers
    damaged      Damaged(WeightNoise | OtherSupport)    the final teacher, changed
    parts        Damaged(SubNetwork | DroppedHeads)     and some of it alone

Hinton et al.'s temperature T is `Target(tau=T)` with `Loss(tau_student=T, scale=T**2)`.
"""

from sandbox.distill.methods.damaged import Damaged, OtherSupport, WeightNoise
from sandbox.distill.methods.decoupled import Decoupled
from sandbox.distill.methods.extraction import Features
from sandbox.distill.methods.flips import Flips
from sandbox.distill.methods.knowledge import ClassMeans, OwnWeight, Smooth, TopK
from sandbox.distill.methods.logits import TAID, LogitMatching
from sandbox.distill.methods.parts import DroppedHeads, SubNetwork
from sandbox.distill.methods.wrong import SkipWrong, SwapWrong

METHODS: tuple[type, ...] = (
    *(OwnWeight, Smooth, TopK, ClassMeans, SwapWrong, SkipWrong),
    *(Decoupled, LogitMatching, TAID, Flips, Features),
    *(Damaged, SubNetwork, WeightNoise, DroppedHeads, OtherSupport),
)
"""What a stored record may name."""
