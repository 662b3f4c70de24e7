"""Published methods: each one file of records for the parts of a `Strategy`.

    knowledge    OwnWeight, Smooth, TopK, ClassMeans    parts of the target
    wrong        SwapWrong, SkipWrong, Sure             where the teacher errs
    decoupled    Decoupled                              label and wrong classes apart
    logits       LogitMatching, TAID
    flips        Flips                                  how outputs change with a bit
    extraction   Features                               the teacher's hidden layers
    damaged      Damaged(WeightNoise | OtherSupport)    the final teacher, changed
    parts        Damaged(SubNetwork | DroppedHeads)     and some of it alone
    checkpoints  Fixed, Snapshots, Ensemble             stored networks throughout
    exact        Bayes                                  the exact posterior
    online       Online                                 a teacher that learns meanwhile
    adapter      Adapter                                added to a stored one
    held         Tuned, Dynamic, Beside                 teachers that a view holds
    averaged     Averaged                               the student's moving average
    expansion    Expand                                 a teacher that shares tensors
    gap          Branched, Flatten                      and kernels beside its own
    meta         MetaDistil                             a teacher that learns to teach
    pruning      Pruned                                 a student that loses units
    exits        OneForAll                              early exits, unlike networks
    features     NormDirection                          features of the last layer
    own_head     OwnHead                                and the teacher's layer on them
    batchwise    Relations, Centres                     rows together
    lipschitz    Lipschitz                              how steep answers are
    augmented    Augmented                              drawn rows that tell most
    on_policy    OnPolicy                               the student's own strings
    towers       Embedding, Inherited                   queries and documents
    truncated    Truncated                              classes that the teacher prefers
    sampled      Sampled                                classes that are drawn

Hinton et al.'s temperature T is `Target(tau=T)` with `Loss(tau_student=T, scale=T**2)`.
"""

from sandbox.distill.methods.adapter import Adapter
from sandbox.distill.methods.augmented import Augmented
from sandbox.distill.methods.averaged import Averaged
from sandbox.distill.methods.batchwise import Centres, Relations
from sandbox.distill.methods.checkpoints import Ensemble, Fixed, Snapshots
from sandbox.distill.methods.damaged import Damaged, OtherSupport, WeightNoise
from sandbox.distill.methods.decoupled import Decoupled
from sandbox.distill.methods.exact import Bayes
from sandbox.distill.methods.exits import OneForAll
from sandbox.distill.methods.expansion import Expand
from sandbox.distill.methods.extraction import Features
from sandbox.distill.methods.features import NormDirection
from sandbox.distill.methods.flips import Flips
from sandbox.distill.methods.gap import Branched, Flatten
from sandbox.distill.methods.held import Beside, Dynamic, Tuned
from sandbox.distill.methods.knowledge import ClassMeans, OwnWeight, Smooth, TopK
from sandbox.distill.methods.lipschitz import Lipschitz
from sandbox.distill.methods.logits import TAID, LogitMatching
from sandbox.distill.methods.meta import MetaDistil
from sandbox.distill.methods.on_policy import OnPolicy
from sandbox.distill.methods.online import Online
from sandbox.distill.methods.own_head import OwnHead
from sandbox.distill.methods.parts import DroppedHeads, SubNetwork
from sandbox.distill.methods.pruning import Pruned
from sandbox.distill.methods.sampled import Sampled
from sandbox.distill.methods.towers import Embedding, Inherited
from sandbox.distill.methods.truncated import Truncated
from sandbox.distill.methods.wrong import SkipWrong, Sure, SwapWrong

METHODS: tuple[type, ...] = (
    *(OwnWeight, Smooth, TopK, ClassMeans, SwapWrong, SkipWrong),
    *(Decoupled, LogitMatching, TAID, Flips, Features),
    *(Damaged, SubNetwork, WeightNoise, DroppedHeads, OtherSupport),
    *(Fixed, Snapshots, Ensemble, Bayes, Online, Adapter, Averaged, Sure),
    *(Expand, Branched, Dynamic, Flatten, Beside, Tuned, MetaDistil),
    *(Pruned, OneForAll, NormDirection, OwnHead, Relations, Lipschitz),
    *(Truncated, Sampled, Centres, Augmented, Embedding, Inherited, OnPolicy),
)
"""What a stored record may name."""
