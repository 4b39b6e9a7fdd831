package hostile

// actors are all attacks. docs/security.md has a row for each of them.
func actors(s *stage) []actor {
	all := []actor{
		liar(s), squatter(s), lister(s), shouter(s), inventor(s), announcer(s), resetter(s), dripper(s), crowd(s), ranger(s), tarpit(s), vandal(s),
		insider(s), limiter(s), collector(s), backtracker(s),
	}
	if s.redis != nil {
		all = append(all, planter(s))
	}
	return all
}
