# A batch that is read from the nodes of a cluster, each of which is sent a part of its commands.

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from hotfeast.hotpath.batch cimport Ask, Batch, Outgoing
from hotfeast.hotpath.link cimport Outcome, Transfer
from hotfeast.hotpath.reply cimport Reply
from hotfeast.hotpath.slots cimport SlotMap

cdef enum:
    # What stands for the node of a command that is not to be sent: it has been answered, it has
    # been put off, or nobody has looked yet which node has its key.
    ANSWERED = 0xFFFF
    PUT_OFF = 0xFFFE
    UNOWNED = 0xFFFD


cdef class Part:
    cdef readonly str node        # its address
    cdef readonly bint asking     # whether each command is announced with ASKING
    cdef readonly uint32_t count  # of its commands
    cdef Batch batch
    cdef Ask* asks                # one per recipe
    cdef uint32_t* entities       # of all commands, recipe after recipe
    cdef uint32_t* commands       # their numbers among the batch's
    cdef Outgoing out
    cdef Transfer transfer

    cdef int begin(self, Reply reply) except -1


cdef class Scatter:
    cdef readonly Batch batch
    cdef readonly Reply reply     # what the cells are gathered in
    cdef readonly list parts      # that are to be exchanged next
    cdef readonly list put_off    # commands that were not answered: number, node, why
    cdef list targets             # nodes that commands go to, and whether with ASKING
    cdef uint16_t* owners         # for each command its target, ANSWERED or PUT_OFF
    cdef uint32_t* first_command  # for each recipe the number of its first command
    cdef size_t* first_span       # and where the values of its replies start
    cdef uint32_t total           # commands
    # While the loop exchanges the parts.
    cdef uint32_t waiting         # parts that are under way
    cdef readonly double deadline  # monotonic seconds; 0 before that
    cdef double timeout           # seconds, as it was asked for
    cdef object done

    cdef int count_commands(self) except -1
    cdef int own_by_slot(self, SlotMap slots) except -1
    cdef int make_parts(self) except -1
    cdef uint32_t entity_of(self, uint32_t recipe, uint32_t place) noexcept
    cdef uint32_t recipe_of(self, uint32_t command) noexcept


cdef Outcome step_part(int fd, Part part, Reply reply, bint readable) noexcept nogil
