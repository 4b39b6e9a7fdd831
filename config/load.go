package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// source records the origin of each value of a Config.
type source struct {
	files       []string            // configuration files in the order of merging
	positions   map[string]position // of the keys that are set, by key path
	secretFiles map[string]string   // the file a secret was read from, by the secret's key path
	oddSecrets  map[string]string   // why a secret from a file looks wrong, by the secret's key path
	ignored     []string            // key paths of Angos that change nothing for a mirror
	older       []olderKey          // older spellings
	optedOut    []string            // key paths of immutable_tags = false that have no effect
	passedOver  []string            // default places whose file is not Weir's
	written     []string            // files of edit_dir
	strange     []string            // variables of the environment that are not settings
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

// Load reads the configuration of files; see [Source.Load].
func Load(files ...string) (*Config, error) { return Source{Files: files}.Load() }

// Load reads configuration files: tables of a later file merge into those of
// the earlier ones, everything else replaces. Without files it reads the first one
// of [Places]. If no file has a repository block, the built-in ones are in force.
// Variables of the environment replace values of files, and overrides replace both.
//
// Load expands ${NAME}, reads the files of secrets and checks keys and types.
// [Config.Validate] checks the values. The error is a [Problems]. If Load fails,
// the error also holds the problems that Validate finds in the other keys, so that
// one report has all problems.
func (s Source) Load() (*Config, error) { return s.load(nil) }

// LoadWith is Load with the block of a draft, as if it were in a file of edit_dir.
func (s Source) LoadWith(d Draft) (*Config, error) {
	if d.ByHand() {
		return nil, Problems{{Err: errors.New("the block names files or programs of the mirror's machine, so the operator alone writes it")}}
	}
	return s.load(&d)
}

func (s Source) load(more *Draft) (*Config, error) {
	files, passedOver := s.files()
	var unread Problems
	root := &node{value: table{}}
	for _, file := range files {
		document, problem := readDocument(file)
		if problem != nil {
			unread = append(unread, problem)
			continue // the other files may have problems too
		}
		root = merge(root, document)
	}
	written, misplaced := s.written(root, more)
	unread = append(unread, misplaced...)
	var replaceable []string
	if files, ok := root.get(); ok && needsBuiltIn(files) {
		replaceable = builtInKeys()
	}
	root, strange, problems := s.over(root, documents(written)...)
	c, found := decode(root)
	problems = append(problems, found...)
	for _, block := range written {
		files = append(files, block.file)
		c.source.written = append(c.source.written, block.file)
	}
	c.confineWritten(replaceable)
	c.source.files, c.source.passedOver, c.source.strange = files, passedOver, strange
	// After a file that could not be read, keys would seem to be missing.
	if len(problems) > 0 && len(unread) == 0 {
		problems = append(problems, c.unrelated(problems)...)
	}
	if err := append(unread, problems...).sorted(files).err(); err != nil {
		return nil, err
	}
	return c, nil
}

// Salvage returns as much of the configuration as can be read. A line that is not
// TOML, and a value that cannot be used, count as absent. It is for questions to a
// running mirror, which has read the files at a time when they were whole. It leaves out edit_dir,
// whose blocks do not tell where the mirror listens.
func (s Source) Salvage() *Config {
	files, _ := s.files()
	root := &node{value: table{}}
	for _, file := range files {
		root = merge(root, salvageDocument(file))
	}
	root, _, _ = s.over(root)
	c, _ := decode(root)
	c.source.files = files
	return c
}

// unrelated returns the problems that Validate finds, except those that follow from
// the given problems: if url is misspelt, it is not reported as missing too.
func (c *Config) unrelated(found Problems) Problems {
	invalid := c.validate()
	return slices.DeleteFunc(invalid, func(p *Problem) bool {
		_, written := c.source.positions[p.Key]
		return slices.ContainsFunc(found, func(f *Problem) bool {
			// A missing key may be the unknown key next to it, misspelled. Next to a key
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
