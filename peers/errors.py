"""The errors of OmniLytics, in one tree.

OmniLyticsError                  exit 1   anything that has no better name
├── ConfigurationError           exit 2   an option or the configuration file is wrong
│   └── PortError                exit 5   a local port or socket cannot be had
├── PolicyError                  exit 2   a task, or a round, is not what the owner's policy allows
├── ParameterError               exit 2   a number is outside what the protocol allows
│   └── BudgetError              exit 2   sums would not fit the ring
├── KeyFileError                 exit 6   a key is missing, exposed, damaged or weak
├── FundsError                   exit 6   an account cannot pay for what it has to do
├── MessageError                 exit 3   a message of a peer is not acceptable
├── BrokerError                  exit 3   the message broker cannot be used
├── ControlError                 exit 3   a daemon's control socket cannot be had, or does not answer
├── ChainError                   exit 4   the chain's interface fails or answers nonsense
│   └── ChainMismatchError       exit 7   another chain or contract than the one configured
├── ContextError                 exit 7   a round is not the one that was agreed on
├── CommitmentError              exit 7   bytes are not those that were committed to
├── ModelMismatchError           exit 7   a model is not the one on the chain, or not usable
├── LockError                    exit 8   another process holds the data folder
├── DataError                    exit 9   the owner's data cannot be used
│   └── VectorError              exit 9   a vector has a wrong length, type or value
└── JournalError                 exit 9   the journal cannot be read or written

Every error has a `code` (short, stable, for logs and for machines), a message in the words of the user,
and a `help` text that says what to do next. No message ever contains a seed, a key or a value of an
unmasked vector: only positions, lengths and limits.

Exit codes: 0 done, also after SIGTERM and SIGINT; 1 other; 2 usage or configuration; 3 communications;
4 chain interface; 5 port; 6 account, funds or keys; 7 contract mismatch; 8 lock held; 9 data.
"""

from typing import ClassVar


class OmniLyticsError(Exception):
    """The root of the tree. Catch it at the edge of the process: log `code`, print message and `help`, exit.

    `message` is what went wrong, with the numbers; `help` is what to do about it. Without `help` the
    class's own `default_help` stands in.
    """

    code: ClassVar[str] = "omnilytics"
    exit_code: ClassVar[int] = 1
    default_help: ClassVar[str] = "see the log for what led to this; omnilytics bundle collects it for a report"

    def __init__(self, message: str, help: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.help = help or self.default_help


class ConfigurationError(OmniLyticsError):
    """An option or the configuration is wrong.

    The user corrects it and starts again; a restart alone is useless.
    """

    code = "configuration"
    exit_code = 2
    default_help = "correct the configuration, check it with: omnilytics config validate"


class PortError(ConfigurationError):
    """A local port or socket cannot be had. The user frees it or configures another."""

    code = "configuration.port"
    exit_code = 5
    default_help = "stop the process that uses the port, or configure another one"


class PolicyError(OmniLyticsError):
    """A task or a round is not what the owner's own policy allows: the task is not joined, the round is sat out.

    The message names the key of the policy in brackets at its end. The user changes the key, or leaves the task alone.
    """

    code = "policy"
    exit_code = 2
    default_help = "change the key in brackets under [policy] in config.toml, or leave the task alone"


class ParameterError(OmniLyticsError):
    """A number is outside what the protocol allows. The caller changes the task's parameters."""

    code = "parameter"
    exit_code = 2
    default_help = "choose parameters within the bounds that docs/protocol.md gives"


class BudgetError(ParameterError):
    """The sum of a group could wrap around.

    The caller lowers the magnitude or the group size, or widens the lanes.
    """

    code = "quantise.budget"
    default_help = "lower max_magnitude or the group size, or use wider lanes"


class KeyFileError(OmniLyticsError):
    """A key is missing, exposed, damaged or weak.

    The user restores or replaces it; nothing is sent with it.
    """

    code = "keys"
    exit_code = 6
    default_help = "restore the key file from a backup, or make a new key and join anew"


class FundsError(OmniLyticsError):
    """An account cannot pay for a stake, an escrow or gas. The user funds it; the daemon tries again."""

    code = "funds"
    exit_code = 6
    default_help = "send the missing amount to the account"


class MessageError(OmniLyticsError):
    """A message is malformed, too large, or of another version, context, sender or receiver.

    The caller drops it, counts it by code, and goes on waiting: a hostile message must never end a process.
    """

    code = "message"
    exit_code = 3
    default_help = "nothing to do: the message was dropped; the sender repeats valid ones"


class BrokerError(OmniLyticsError):
    """The broker cannot be reached or refuses us. The daemon tries again with growing pauses."""

    code = "broker"
    exit_code = 3
    default_help = "check the broker's address, its credentials and the network"


class ControlError(OmniLyticsError):
    """A daemon's control socket cannot be had, or nobody answers there.

    A daemon goes on without its socket; a command that asks for one ends.
    """

    code = "control"
    exit_code = 3
    default_help = "start the daemon of this folder first: omnilytics owner run, or omnilytics model run"


class ChainError(OmniLyticsError):
    """The chain's interface fails, or answers what cannot be. The daemon tries again; nothing was decided."""

    code = "chain"
    exit_code = 4
    default_help = "check the RPC address and that the node is synchronised"


class ChainMismatchError(ChainError):
    """Another chain, genesis or contract than the configured one.

    The daemon stops; the user corrects the address.
    """

    code = "chain.mismatch"
    exit_code = 7
    default_help = "configure the right RPC and contract; for a chain that was reset, use a new data folder"


class ContextError(OmniLyticsError):
    """A round is not the one that was agreed on, or was opened twice. The daemon sits the round out."""

    code = "context"
    exit_code = 7
    default_help = "nothing to do: the round is sat out, the next one is played"


class CommitmentError(OmniLyticsError):
    """Bytes are not those that were committed to.

    The caller refuses them; its own bytes are read again from the journal.
    """

    code = "commitment"
    exit_code = 7
    default_help = "post the exact bytes of the journal; never make a second vector for a round"


class ModelMismatchError(OmniLyticsError):
    """A model is not the one on the chain, or not finite, or seen before. The owner does not train on it."""

    code = "model.mismatch"
    exit_code = 7
    default_help = "nothing to do: the round is sat out; leave the task if it happens again"


class LockError(OmniLyticsError):
    """Another process holds the data folder. The user stops it, or uses another folder."""

    code = "lock"
    exit_code = 8
    default_help = "stop the other process first: omnilytics stop"


class DataError(OmniLyticsError):
    """The owner's data cannot be read or used.

    The user corrects the data set; no round is played without it.
    """

    code = "data"
    exit_code = 9
    default_help = "check the data set: omnilytics data list"


class VectorError(DataError):
    """A vector has a wrong length, type or value.

    It is not posted; the caller sits the round out and looks for the cause.
    """

    code = "vector"
    default_help = "check the learning rate and the data for values that overflow; the round is sat out"


class JournalError(OmniLyticsError):
    """The journal is damaged or cannot be written.

    The daemon stops before it acts; it never starts over a damaged one.
    """

    code = "journal"
    exit_code = 9
    default_help = "free disk space or restore the journal; never delete it while a round is open"
