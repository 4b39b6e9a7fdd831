package access

import (
	"errors"
	"fmt"
	"strings"
)

// maxAccounts bounds the accounts of a file.
const maxAccounts = 100_000

// ParseHtpasswd reads the lines of a file that htpasswd(1) writes: user:hash. Blank lines
// and comments are passed over. It joins the errors of all lines, which name the line and
// never quote a hash.
func ParseHtpasswd(text string) ([]Account, error) {
	var accounts []Account
	var problems []error
	lines := map[string]int{} // of each user
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fail := func(format string, args ...any) {
			problems = append(problems, fmt.Errorf("line %d: %w", number, fmt.Errorf(format, args...)))
		}
		user, text, found := strings.Cut(line, ":")
		if !found || !ValidUser(user) {
			fail("is not of the form user:hash")
			continue
		}
		hash, err := ParseHash(text)
		switch before, twice := lines[user]; {
		case err != nil:
			fail("the password of %q %w", user, err)
		case twice:
			fail("the user %q is also on line %d", user, before)
		case len(accounts) == maxAccounts:
			return nil, fmt.Errorf("it has more than %d users", maxAccounts)
		default:
			accounts = append(accounts, Account{User: user, Hash: hash})
		}
		lines[user] = number
	}
	const most = 10 // lines of a report; a file of another kind would have thousands
	if len(problems) > most {
		problems = append(problems[:most], fmt.Errorf("and %d more", len(problems)-most))
	}
	return accounts, errors.Join(problems...)
}
