package access

import (
	"maps"
	"slices"
)

// groups are the members of each group. Members are not groups.
type groups struct {
	names   []string // sorted
	members map[string][]Subject
	users   map[string][]string // the groups that each user is in by name alone, sorted
	rest    []string            // the groups with a member that is not a user
}

func newGroups(members map[string][]Subject) groups {
	g := groups{names: slices.Sorted(maps.Keys(members)), members: members, users: map[string][]string{}}
	for _, name := range g.names {
		for _, member := range members[name] {
			user := member.value
			if member.kind != byUser {
				g.rest = append(g.rest, name)
			} else if !slices.Contains(g.users[user], name) {
				g.users[user] = append(g.users[user], name)
			}
		}
	}
	g.rest = slices.Compact(g.rest)
	return g
}

// of returns the groups of an identity, sorted.
func (g *groups) of(i *Identity) []string {
	named := g.users[i.User] // shared by all requests of the user: not to be changed
	var all []string
	for _, name := range g.rest {
		if slices.ContainsFunc(g.members[name], func(s Subject) bool { return s.matches(i) }) {
			all = append(all, name)
		}
	}
	if len(all) == 0 {
		return named
	}
	all = append(all, named...)
	slices.Sort(all)
	return slices.Compact(all)
}

// readAddress reports whether a member of a group is a network.
func (g *groups) readAddress() bool {
	for _, members := range g.members {
		if slices.ContainsFunc(members, Subject.isNetwork) {
			return true
		}
	}
	return false
}
