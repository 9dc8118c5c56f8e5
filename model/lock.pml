/* The protocol of one lock, small enough to be searched completely: by spin.
 *
 * Law: nothing is counted that could run out. Callers go on as long as they like, connections
 * break whenever they like, time passes whenever it likes; so what holds here holds for runs of
 * any length. Verbs and outcomes have the names of src/fastlock/_ops.py. server.pml is the
 * network and the server, caller.pml a caller.
 *
 * Without defines there is one caller, and somebody else who is quick and makes no mistake.
 * model/check.py puts the defines together:
 *   TWO        two callers in processes of their own, and nobody else
 *   HANDOVER   two callers share a process and a connection, and hand the lock over
 *   SHORTER    an extension may also set a shorter ttl
 *   NO_KILL    the server may not be told to end an old connection (CLIENT KILL)
 *   CALM       nobody extends, leaves early or crashes: for the search of a mistake elsewhere
 *   WRONG_...  one mistake each, which must be found
 */

#ifdef TWO
#define CALLERS 2
#define PROCESSES 2
#define PROCESS(c) (c)
#else
#ifdef HANDOVER
#define CALLERS 3
#else
#define CALLERS 2
#endif
#define PROCESSES 1
#define PROCESS(c) 0
#define SOMEBODY (CALLERS - 1)
#endif

/* Durations, in ticks. The server's clock may gain a tick on a ttl; the margin is for that. */
#define TTL 3
#define SHORT 2
#define WAITERS_TTL SHORT /* of the lock that is handed over */
#define GAIN 1
#ifdef WRONG_NO_MARGIN
#define MARGIN 0
#else
#define MARGIN 1
#endif
#define LIFE(ttl) ((ttl) - MARGIN) /* from the sending to the deadline */

/* A caller has two, by turns; 0 is none. */
#define TOKEN(c) ((c) + 1)
#define OTHER_TOKEN(c) ((c) + 1 + CALLERS)
#define TOKENS (2 * CALLERS + 1)

mtype = { acquire, ask, extend, release, swap };   /* verbs */
mtype = { answered, lost, left, crashed };         /* what came of a command */
mtype = { promised, given, unoccupied, unclear, gone }; /* what a waiter hears of a hand-over;
                                                           gone is its own word: it has left */

/* --- the server: who has the key, and for how many ticks more */

byte holder, ttl_left;
bool late_taken; /* it was taken by a command whose connection was over */

/* --- callers. Clocks run down to the instant that they speak of; at 0 it has passed */

byte token[CALLERS];
bool held[CALLERS];  /* it has a lease that counts until its deadline */
byte life[CALLERS];  /* until the deadline of its lease */
byte fresh[CALLERS]; /* until the deadline that the command under way would give */
byte first[CALLERS]; /* until the one that the oldest unanswered try would have given; in an
                        extension: until the deadline before it */

#define valid(c) (held[c] && life[c] > 0)

#ifdef HANDOVER
bool waits[CALLERS];    /* for the key, with nothing under way */
mtype promise[CALLERS]; /* of the mate that hands the lock over to it */
bool awaits[CALLERS];   /* an answer; false in the middle: the mate has ended the connection */
#define AWAITING(x) awaits[me] = x
#define connected awaits[me]
#else
#define AWAITING(x) skip
#define connected true
#endif

/* --- the laws. What is asserted has the law's name, so that a finding says which it was */

bool exclusive = true; /* at most one lease is valid at any moment */
bool truthful = true;  /* release: True, a release of ours has freed it; False, none has */
bool nothing = true;   /* who is told that it holds nothing holds nothing, now and later */

bool freed[TOKENS]; /* a release or swap of ours has freed the lock of that token */
bool told[TOKENS];  /* the caller was told that it does not hold it, or not any more */

#ifdef HANDOVER
#define two_valid ((valid(0) && valid(1)) || (valid(0) && valid(2)) || (valid(1) && valid(2)))
#else
#define two_valid (valid(0) && valid(1))
#endif

/* Without the kill, a late command may take the key for nobody, for one ttl. Nothing else may. */
#if defined(NO_KILL) && !defined(WRONG_CERTAIN)
#define held_for_nobody (told[holder] && !late_taken)
#else
#define held_for_nobody told[holder]
#endif

#ifdef ONLY_EXCLUSIVE /* what a mistake found by another law does to this one */
#define demand(law) skip
#else
#define demand(law) assert(law)
#endif

active proctype Laws() {
end:
    do
    :: atomic { two_valid -> exclusive = false; assert(exclusive) }
    :: atomic { held_for_nobody -> nothing = false; demand(nothing) }
    od
}

/* --- time passes for all at once, and stands still only when nothing depends on it */

#define run_down(clock) if :: clock > 0 -> clock-- :: else fi
#define runs(c) (life[c] + fresh[c] + first[c] > 0)
#ifdef HANDOVER
#define anything_runs (ttl_left > 0 || runs(0) || runs(1) || runs(2))
#else
#define anything_runs (ttl_left > 0 || runs(0) || runs(1))
#endif

active proctype Time() {
    byte c;
end:
    do
    :: d_step {
           anything_runs;
           printf("-- a tick\n");
           if
           :: ttl_left == 1 ->
                printf("server: the lock of token %d expires\n", holder);
                ttl_left = 0; holder = 0; late_taken = false
           :: else -> run_down(ttl_left)
           fi;
           do
           :: c < CALLERS -> run_down(life[c]); run_down(fresh[c]); run_down(first[c]); c++
           :: else -> break
           od;
           c = 0
       }
    od
}

#include "server.pml"
#include "caller.pml"

/* --- somebody else, whose commands are answered at once */

#ifdef SOMEBODY
active proctype Somebody() {
end:
    do
    :: atomic {
           holder == 0 && !held[SOMEBODY] ->
           printf("somebody else takes the lock\n");
           holder = TOKEN(SOMEBODY); held[SOMEBODY] = true; life[SOMEBODY] = LIFE(TTL);
           if :: ttl_left = TTL :: ttl_left = TTL - GAIN fi
       }
    :: atomic {
           held[SOMEBODY] ->
           if
           :: holder == TOKEN(SOMEBODY) ->
                printf("somebody else frees the lock\n");
                holder = 0; ttl_left = 0
           :: printf("somebody else leaves the lock to its ttl\n")
           fi;
           held[SOMEBODY] = false; life[SOMEBODY] = 0
       }
    :: !held[SOMEBODY] -> break /* and is never seen again */
    od
}
#endif

init {
    atomic {
        run Caller(0);
#if defined(TWO) || defined(HANDOVER)
        run Caller(1)
#endif
    }
}
