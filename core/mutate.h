/*
 * mutate.h - the engine broken on purpose, in one place, to see whether the simulator notices.
 *
 * `make mutants` builds the engine and the models once with -DAFF_MUTANT=n for each number below
 * (docs/MUTANTS.md has the outcome). Without it AFF_MUTATE(n, broken, right) is `right`, and
 * nothing else is compiled.
 *
 *    1  an owner takes offers under any epoch
 *    2  a release deletes whatever record stands (model of Redis)
 *    3  a missing batch is not noticed
 *    4  a renewal sets the key, whoever has it (model of Redis)
 *    5  a store is confirmed without asking Redis
 *    6  a new epoch is not above the one before (model of Redis)
 *    7  a batch that comes twice is taken twice
 *    8  what waits while a document moves is dropped
 *    9  stateless messages that a dead owner has not acknowledged are dropped
 *   10  a membership that was not renewed goes on
 *   11  what former owners had not acknowledged is not settled
 *   12  the clock of a cursor is not wound up when its document moves
 *   13  a claim takes a lease whoever holds it (model of Redis)
 *   14  leases are not made sure of after a reconnection
 *   15  answers to former owners pass to the new one
 *   16  the app hears that a document is left before its routes have moved
 *   17  there is no margin for clocks that differ
 *   18  a new boot goes on with the leases of the former one
 *   19  an event is given up when its owner is gone
 *   20  a lost document is not told to the servers that route to it
 */
#ifndef AFF_MUTATE_H
#define AFF_MUTATE_H

#ifdef AFF_MUTANT
#define AFF_MUTATE(n, broken, right) (AFF_MUTANT == (n) ? (broken) : (right))
#else
#define AFF_MUTATE(n, broken, right) (right)
#endif

#endif
