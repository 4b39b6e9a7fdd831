package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// source records the origin of each value of a Config.
type source struct {
	files       []string            // configuration files in the order of merging
	positions   map[string]position // of the keys that are set, by key path
	secretFiles map[string]string   // the file a secret was read from, by the secret's key path
	ignored     []string            // key paths of Angos that change nothing for a mirror
	optedOut    []string            // key paths of immutable_tags = false that have no effect
}

// at returns the position of a key, or of the nearest table around it that has
// one.
func (s source) at(key string) position {
	for ; key != ""; key = parentOf(key) {
		if p, ok := s.positions[key]; ok {
			return p
		}
	}
	return position{}
}

// Load reads configuration files: tables of a later file merge into those of
// the earlier ones, everything else replaces. Without paths it reads
// ./config.toml, else /etc/weir/config.toml, else it returns [Default].
//
// Load expands ${NAME}, reads the files of secrets and checks keys and types.
// [Config.Validate] checks the values. The error is a [Problems]. If Load fails,
// the error also holds the problems that Validate finds in the other keys, so that
// one report has all problems.
func Load(paths ...string) (*Config, error) {
	if len(paths) == 0 {
		return loadFirst("config.toml", "/etc/weir/config.toml")
	}
	return loadAll(paths)
}

// loadFirst loads the first file that exists.
func loadFirst(candidates ...string) (*Config, error) {
	for _, file := range candidates {
		// A file that exists and cannot be read is an error, not a reason to take
		// the next one.
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			return loadAll([]string{file})
		}
	}
	return Default(), nil
}

func loadAll(paths []string) (*Config, error) {
	var unread Problems
	root := &node{value: table{}}
	for _, file := range paths {
		document, problem := readDocument(file)
		if problem != nil {
			unread = append(unread, problem)
			continue // the other files may have problems too
		}
		root = merge(root, document)
	}
	c, problems := decode(root)
	c.source.files = slices.Clone(paths)
	// After a file that could not be read, keys would seem to be missing.
	if len(problems) > 0 && len(unread) == 0 {
		problems = append(problems, c.unrelated(problems)...)
	}
	if err := append(unread, problems...).sorted(paths).err(); err != nil {
		return nil, err
	}
	return c, nil
}

// unrelated returns the problems that Validate finds, except those that follow from
// the given problems: if url is misspelt, it is not reported as missing too.
func (c *Config) unrelated(found Problems) Problems {
	invalid := c.validate()
	return slices.DeleteFunc(invalid, func(p *Problem) bool {
		_, written := c.source.positions[p.Key]
		return slices.ContainsFunc(found, func(f *Problem) bool {
			// A missing key may be the unknown key beside it, misspelt. Beside a key
			// with a wrong value it is missing.
			var unknown unknownKeyError
			misspelt := !written && parentOf(p.Key) == parentOf(f.Key) && errors.As(f.Err, &unknown)
			inFile := f.Key == p.Key+fileSuffix // the secret would be there
			// A list with a wrong element seems to be too short. The name of a
			// block is wrong whatever is in the block.
			follows := within(f.Key, p.Key) && parentOf(p.Key) != "repository"
			return within(p.Key, f.Key) || follows || misspelt || inFile
		})
	})
}

// within reports whether a key path is another one or lies below it.
func within(key, ancestor string) bool {
	rest, ok := strings.CutPrefix(key, ancestor)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// problemAt describes a problem of a key, with the position of that key.
func (c *Config) problemAt(key, format string, args ...any) *Problem {
	at := c.source.at(key)
	return &Problem{File: at.file, Line: at.line, Key: key, Err: fmt.Errorf(format, args...)}
}
