-- A schema 1 in PostgreSQL, as the last program with it made and left it. Its months stand in one partition.
-- Its master key is the 32 bytes 0123456789abcdef0123456789abcdef.
create table meta (
    name text collate "C" primary key,
    value text not null
);

create table namespaces (
    id uuid primary key,
    application_id text collate "C" not null,
    name text collate "C" not null,
    description text not null,
    is_secret boolean not null,
    sealing boolean not null,
    default_ttl_seconds bigint,
    keeps_history boolean not null,
    history_limit bigint,
    deletion_protection boolean not null,
    version bigint not null,
    revision bigint not null,
    key_generation bigint not null,
    seals bigint not null,
    version_floor bigint not null,
    version_base bigint not null,
    changed_at timestamptz not null,
    created_at timestamptz not null,
    created_by text not null,
    updated_at timestamptz not null,
    updated_by text not null,
    deleted_at timestamptz,
    mac bytea not null
) with (fillfactor = 50);
create unique index namespaces_live on namespaces (application_id, name) where deleted_at is null;
create index namespaces_by_name on namespaces (application_id, name, id);
create index namespaces_deleted on namespaces (application_id, name, id) where deleted_at is not null;
create index namespaces_sealing on namespaces (application_id, name, id) where sealing;

create table entries (
    id uuid primary key,
    namespace_id uuid not null,
    key_path text collate "C" not null,
    is_tombstone boolean not null,     -- deleted or expired
    value_type smallint not null,      -- 1 string, 2 json, 3 number, 4 boolean, 5 binary
    key_generation bigint not null,    -- 0: the value is plain, otherwise sealed by that data key
    version bigint not null,
    revision bigint not null,
    reason smallint not null,          -- 1 create, 2 update, 3 rotation, 4 rollback, 5 delete, 6 expiry
    comment text not null,
    rolled_back_from bigint,
    ttl_seconds bigint,
    expires_at timestamptz,
    metadata text not null,
    history_floor bigint not null,
    hidden_since timestamptz,
    created_at timestamptz not null,
    created_by text not null,
    updated_at timestamptz not null,
    updated_by text not null,
    request_id text not null,
    has_history boolean not null,      -- there are rows in versions
    forgettable_since timestamptz generated always as
        (case when is_tombstone and hidden_since is null and not has_history then updated_at end) stored,
    value bytea not null
) with (fillfactor = 70);
alter table entries alter column value set storage external;
create unique index entries_by_key on entries (namespace_id, key_path);
create index entries_by_generation on entries (namespace_id, key_generation, id) where not is_tombstone;
create index entries_expiring on entries (expires_at, id) where not is_tombstone and expires_at is not null;
create index entries_hidden on entries (hidden_since, id) where hidden_since is not null;
create index entries_forgettable on entries (forgettable_since, id) where forgettable_since is not null;

create table versions (
    entry_id uuid not null,
    namespace_id uuid not null,
    version bigint not null,
    is_tombstone boolean not null,
    value_type smallint not null,
    key_generation bigint not null,
    revision bigint not null,
    reason smallint not null,
    comment text not null,
    rolled_back_from bigint,
    ttl_seconds bigint,
    expires_at timestamptz,
    metadata text not null,
    changed_at timestamptz not null,
    changed_by text not null,
    request_id text not null,
    value bytea not null,
    primary key (entry_id, version)
);
alter table versions alter column value set storage external;
create index versions_by_generation on versions (namespace_id, key_generation, entry_id, version) where not is_tombstone;

create sequence audit_position;
create table audit (
    position bigint not null default nextval('audit_position'),
    stream uuid not null,
    sequence bigint not null,
    at timestamptz not null,
    namespace_id uuid,
    entry_id uuid,
    key_path text not null,
    action smallint not null,          -- 1 read, 2 write, 3 delete, 4 rotate, 5 rollback
    operation text not null,
    user_id text not null,
    credential_id text not null,
    application_id text not null,
    peer text not null,
    request_id text not null,
    success boolean not null,
    reason text not null,
    version bigint,
    revision bigint,
    count bigint not null,
    mac bytea not null
) partition by range (at);
alter sequence audit_position owned by audit.position;
create index audit_by_position on audit (position);
create index audit_by_namespace on audit (namespace_id, at);
create index audit_by_time on audit using brin (at);
create table audit_other partition of audit default;

create table audit_heads (
    stream uuid primary key,
    sequence bigint not null,
    mac bytea not null,
    closed smallint not null           -- 0 open, 1 closed, 2 witnessed by a later stream
) with (fillfactor = 50);

create table outbox (
    namespace_id uuid not null,
    revision bigint not null,
    entry_id uuid not null,
    key_path text not null,
    kind smallint not null,            -- 1 created, 2 updated, 3 rotated, 4 rolled back, 5 deleted, 6 expired, 7 touched
    version bigint not null,
    at timestamptz not null,
    user_id text not null,
    primary key (namespace_id, revision)
);

create table data_keys (
    purpose smallint not null check (purpose between 1 and 6),  -- canary, audit, row mac, token, cursor, data of a namespace
    namespace_id uuid not null,
    generation bigint not null,
    application_id text not null,
    created_at timestamptz not null,
    wrap_key_id text not null,
    wrap bytea not null,
    second_wrap_key_id text not null,
    second_wrap bytea not null,
    commitment bytea not null,
    primary key (purpose, namespace_id, generation)
);

insert into meta (name, value) values ('storage.schema_version', '1');

insert into audit values (1, '01a20a01-8dd7-7067-ba1f-f1d8862f96c9', 1, '2026-11-23 20:03:23.736927+00', NULL, NULL, '', 2, 'audit.open', 'system', '', '', '', '', true, '', NULL, NULL, 1, '\x74d9eb855eba3ceb8df2b0f9f5a937e7e6a35c0f707b49ed3e189ce51e0a66be');
insert into audit values (2, '01a20a01-8dd7-7067-ba1f-f1d8862f96c9', 2, '2026-11-23 20:03:23.736927+00', '01a20a01-8dd8-741e-8799-c66b0ff1bc3e', NULL, '', 2, 'namespace.create', 'root', '', 'app-1', '', '00000000-0000-7638-94af-6cfd2d787829', true, '', 1, NULL, 1, '\x38b185e888d8565942e07637dea39f8777107cc1d2488e68251f8b5537534633');
insert into audit values (3, '01a20a01-8dd7-7ec0-b1bf-fd9142446306', 1, '2026-11-23 20:03:23.739186+00', NULL, NULL, '', 2, 'audit.open', 'system', '', '', '', '', true, '', NULL, NULL, 1, '\x0c8c4b4cf0375f13c10f6dc3ee3bb637f6c1ac881ec1f4435c1d5e56d0eadcd4');
insert into audit values (4, '01a20a01-8dd7-7ec0-b1bf-fd9142446306', 2, '2026-11-23 20:03:23.739186+00', NULL, NULL, '', 2, 'audit.unclosed', 'system', '38b185e888d8565942e07637dea39f8777107cc1d2488e68251f8b5537534633', '', '', '01a20a01-8dd7-7067-ba1f-f1d8862f96c9', true, '', 2, NULL, 1, '\x3d3b03f4316c7ff0a1e6e24e163d98eeb7ca4a9558a3a1275fa71f8ad8b79b6c');
insert into audit values (5, '01a20a01-8dd7-7ec0-b1bf-fd9142446306', 3, '2026-11-23 20:03:23.739186+00', '01a20a01-8dda-722a-9f63-500c3b8f2436', NULL, '', 2, 'namespace.create', 'root', '', 'app-1', '', '00000000-0000-7ec7-979f-adfc6712cdd8', true, '', 1, NULL, 1, '\x9eed048d323a36f69ce252e69d4237aa7685a023cc74aa35e5b9ed0727f103aa');
insert into audit values (6, '01a20a01-8dd7-7067-ba1f-f1d8862f96c9', 3, '2026-11-23 20:03:23.741026+00', '01a20a01-8dd8-741e-8799-c66b0ff1bc3e', '01a20a01-8ddc-75f2-80c5-f7430d77bd1b', 'database/password', 2, 'entry.put', 'root', '', 'app-1', '', '00000000-0000-78f4-aa7b-69a199a78767', true, '', 1, 1, 1, '\x86dbf6dd50c31086035f2ef03983e770edd110acb3af9b98bebf1c1b9900ceed');
insert into audit values (7, '01a20a01-8dd7-7067-ba1f-f1d8862f96c9', 4, '2026-11-23 20:03:23.744613+00', '01a20a01-8dd8-741e-8799-c66b0ff1bc3e', '01a20a01-8ddc-75f2-80c5-f7430d77bd1b', 'database/password', 4, 'entry.rotate', 'root', '', 'app-1', '', '00000000-0000-7737-a3c3-6f4bd3f5bb68', true, '', 2, 2, 1, '\x38e6e6e1cc9227d9ce54f27022b946428b2b10e65b98604f7005b153ba923dc1');
insert into audit values (8, '01a20a01-8dd7-7067-ba1f-f1d8862f96c9', 5, '2026-11-23 20:03:23.747619+00', '01a20a01-8dd8-741e-8799-c66b0ff1bc3e', '01a20a01-8de3-734f-9d55-38f6aeca5a1d', 'api/token', 2, 'entry.put', 'root', '', 'app-1', '', '00000000-0000-772b-98bd-9844601fcbff', true, '', 1, 3, 1, '\xeb13397f50bf82603ca81ca15bc8ef1a294a71929412f0331b6be522d41e889f');
insert into audit values (9, '01a20a01-8dd7-7067-ba1f-f1d8862f96c9', 6, '2026-11-23 20:03:23.748871+00', '01a20a01-8dd8-741e-8799-c66b0ff1bc3e', '01a20a01-8de3-734f-9d55-38f6aeca5a1d', 'api/token', 3, 'entry.delete', 'root', '', 'app-1', '', '00000000-0000-71f3-ad27-eae6ca138fc9', true, '', 2, 4, 1, '\xff785c27ade12913c9ceaa40a63c32d47924fdc9d16f84a665963cc0cfb0c293');
insert into audit values (10, '01a20a01-8dd7-7ec0-b1bf-fd9142446306', 4, '2026-11-23 20:03:23.750072+00', '01a20a01-8dda-722a-9f63-500c3b8f2436', '01a20a01-8de5-77bf-b6bd-a8b6506b2c40', 'database/host', 2, 'entry.put', 'root', '', 'app-1', '', '00000000-0000-7eb7-be5b-36d790713bdf', true, '', 1, 1, 1, '\xf57079f71e9a2cea6daafcf30bd4407ea7af73c8495c902bbf4cc6152a908d5b');
insert into audit values (11, '01a20a01-8dd7-7ec0-b1bf-fd9142446306', 5, '2026-11-23 20:03:23.751057+00', '01a20a01-8dda-722a-9f63-500c3b8f2436', '01a20a01-8de6-7706-a3a4-559fed6bde4b', 'database/port', 2, 'entry.put', 'root', '', 'app-1', '', '00000000-0000-7cb1-9c13-69b8758cb295', true, '', 1, 2, 1, '\x9116d145df61d9ff3ba8fd830e647fc70475c2c3f8752a21bb9cca406910b6d4');
insert into audit values (12, '01a20a01-8dd7-7ec0-b1bf-fd9142446306', 6, '2026-11-23 20:03:23.751906+00', '01a20a01-8dda-722a-9f63-500c3b8f2436', '01a20a01-8de6-7706-a3a4-559fed6bde4b', 'database/port', 2, 'entry.put', 'root', '', 'app-1', '', '00000000-0000-74fb-8b83-b389b48c0e4b', true, '', 2, 3, 1, '\x2b33a5b71005c5271931f8fe488ab2c1e4a28289c7a469526d20e91c23af1d7f');
insert into audit values (13, '01a20a01-8dd7-7ec0-b1bf-fd9142446306', 7, '2026-11-23 20:03:23.753857+00', '01a20a01-8dda-722a-9f63-500c3b8f2436', '01a20a01-8de6-7706-a3a4-559fed6bde4b', 'database/port', 5, 'entry.rollback', 'root', '', 'app-1', '', '00000000-0000-7f1d-8c61-1a5b55e9e263', true, '', 3, 4, 1, '\x17b97fb1932747ccf6b9adee075e17c160d3939be7767f3dd0a5c3c84c641650');
insert into audit values (14, '01a20a01-8dd8-76c3-a1be-d24c2b43ce7c', 1, '2026-11-23 20:03:23.75543+00', NULL, NULL, '', 2, 'audit.open', 'system', '', '', '', '', true, '', NULL, NULL, 1, '\x039b270eaf6cf565ac6801ddec1d02b4a707165a6752c96cecdc8df273a9188e');
insert into audit values (15, '01a20a01-8dd8-76c3-a1be-d24c2b43ce7c', 2, '2026-11-23 20:03:23.75543+00', '01a20a01-8dda-722a-9f63-500c3b8f2436', '01a20a01-8de5-77bf-b6bd-a8b6506b2c40', 'database/host', 1, 'entry.get', 'root', '', 'app-1', '', '00000000-0000-7087-92cc-de651cf53857', true, '', 1, NULL, 1, '\x9501cb0289b852ee822af9ea91a202d134a7bde646a2f37ba6d79fc5400acf9b');
insert into audit_heads values ('01a20a01-8dd7-7067-ba1f-f1d8862f96c9', 6, '\xff785c27ade12913c9ceaa40a63c32d47924fdc9d16f84a665963cc0cfb0c293', 0);
insert into audit_heads values ('01a20a01-8dd7-7ec0-b1bf-fd9142446306', 7, '\x17b97fb1932747ccf6b9adee075e17c160d3939be7767f3dd0a5c3c84c641650', 0);
insert into audit_heads values ('01a20a01-8dd8-76c3-a1be-d24c2b43ce7c', 2, '\x9501cb0289b852ee822af9ea91a202d134a7bde646a2f37ba6d79fc5400acf9b', 0);
insert into data_keys values (1, '00000000-0000-0000-0000-000000000000', 1, '', '2026-11-23 20:03:23.727094+00', '32defdc720416a4d', '\x5701019ec194ff491b910e1f5874f11b9c3d582750c8676aed94a00d2b6a8e39e189ef90b4fe29239223500fef2b82c30c636ee120087e8faf94e9d5c14db9', '', '\x', '\xcf8175ea53c462800d592be348cc2f047cc27f7448754f343da5fc21dc069b9b');
insert into data_keys values (2, '00000000-0000-0000-0000-000000000000', 1, '', '2026-11-23 20:03:23.727094+00', '32defdc720416a4d', '\x5701010795bee7f4cd7c57787def96cbf446ed766d0c8231a82ee3f5e6a6ed8bab915257246bfe10cb546963f0e8de981a77fc62eaf8adbc50e9c88fd3cd03', '', '\x', '\x6d166b315467c6c07ed272f3c39b0c89e0d674ccc8ed4c2bef6b8cd475a4196f');
insert into data_keys values (3, '00000000-0000-0000-0000-000000000000', 1, '', '2026-11-23 20:03:23.727094+00', '32defdc720416a4d', '\x5701010b101b18f35d706377195f85d1435d5601e982ce3da3ad1986d4b3ac527f747cb3f4752e59a35bd251a2272803eb14f80208b4c298b62d7ef760ee54', '', '\x', '\xa3e29c6d8c18b6ccd3b377e7ef214af49a69609d15dff074e7ec5a97a554023a');
insert into data_keys values (4, '00000000-0000-0000-0000-000000000000', 1, '', '2026-11-23 20:03:23.727094+00', '32defdc720416a4d', '\x570101c1c49f4f9df49fbb747e0cc80913e99905effd3e9dc10792747c45252d9477425d4af984597249e3a53bc7178c688cac1001de3068034f6a89cdb5a7', '', '\x', '\x3837dafef0d10f321eb49d96aee94ba5f37cfe9cff487ba2de51389e4ff652f1');
insert into data_keys values (5, '00000000-0000-0000-0000-000000000000', 1, '', '2026-11-23 20:03:23.727094+00', '32defdc720416a4d', '\x57010173ef8e7cd95471485ad76aad9047f23707dadca386c7ccd99f9982141394128aab149a960d9b92e003f886aa2e081a8a19db5d264ac2a40548987302', '', '\x', '\x92085ec887a31bb75e3b2b71bec7ebb19c9eb343891d98ffb7de6bed4ffacaef');
insert into data_keys values (6, '01a20a01-8dd8-741e-8799-c66b0ff1bc3e', 1, 'app-1', '2026-11-23 20:03:23.73662+00', '32defdc720416a4d', '\x5701012fd4be98af110ad69398ef8e3675a8e005fc62a3c76b8efd2e8b8ffe4fab533577e17120818cb845047a20d95dde14f59f41e2da8bdc7eaeb0e0e327', '', '\x', '\xfd4a9922ea5d685425943258f28994923f7b20e790c91404c468e5f8768b7d26');
insert into entries values ('01a20a01-8ddc-75f2-80c5-f7430d77bd1b', '01a20a01-8dd8-741e-8799-c66b0ff1bc3e', 'database/password', false, 1, 1, 2, 2, 3, '', NULL, NULL, NULL, '{}', 0, NULL, '2026-11-23 20:03:23.741026+00', 'root', '2026-11-23 20:03:23.744613+00', 'root', '00000000-0000-7737-a3c3-6f4bd3f5bb68', true, DEFAULT, '\x4b01010000000161691473b7091418d39a308a13e644877e361ecd87394505ded796564e6bda4e1a338fb452107660988f3b');
insert into entries values ('01a20a01-8de3-734f-9d55-38f6aeca5a1d', '01a20a01-8dd8-741e-8799-c66b0ff1bc3e', 'api/token', true, 1, 0, 2, 4, 5, '', NULL, NULL, NULL, '{}', 0, NULL, '2026-11-23 20:03:23.747619+00', 'root', '2026-11-23 20:03:23.748871+00', 'root', '00000000-0000-71f3-ad27-eae6ca138fc9', true, DEFAULT, '\x');
insert into entries values ('01a20a01-8de5-77bf-b6bd-a8b6506b2c40', '01a20a01-8dda-722a-9f63-500c3b8f2436', 'database/host', false, 1, 0, 1, 1, 1, '', NULL, NULL, NULL, '{}', 0, NULL, '2026-11-23 20:03:23.750072+00', 'root', '2026-11-23 20:03:23.750072+00', 'root', '00000000-0000-7eb7-be5b-36d790713bdf', false, DEFAULT, '\x64622e6578616d706c65');
insert into entries values ('01a20a01-8de6-7706-a3a4-559fed6bde4b', '01a20a01-8dda-722a-9f63-500c3b8f2436', 'database/port', false, 3, 0, 3, 4, 4, '', 1, NULL, NULL, '{}', 0, NULL, '2026-11-23 20:03:23.751057+00', 'root', '2026-11-23 20:03:23.753857+00', 'root', '00000000-0000-7f1d-8c61-1a5b55e9e263', true, DEFAULT, '\x35343332');
insert into meta values ('epoch', '2e269aa39fadfa23');
insert into namespaces values ('01a20a01-8dd8-741e-8799-c66b0ff1bc3e', 'app-1', 'production', '', true, false, NULL, true, NULL, false, 1, 4, 1, 3, 0, 0, '2026-11-23 20:03:23.748871+00', '2026-11-23 20:03:23.736927+00', 'root', '2026-11-23 20:03:23.736927+00', 'root', NULL, '\xb4e3f3d358c58b5cdb87046a6e4ce1191ff65346f0c248b55f26aadb136426f4');
insert into namespaces values ('01a20a01-8dda-722a-9f63-500c3b8f2436', 'app-1', 'config', 'plain settings', false, false, NULL, true, 20, false, 1, 4, 0, 0, 0, 0, '2026-11-23 20:03:23.753857+00', '2026-11-23 20:03:23.739186+00', 'root', '2026-11-23 20:03:23.739186+00', 'root', NULL, '\x6e7fc46a5222ae32d1fc343986c33279d9ec64375bd583d4b4fbdc41c57d10df');
insert into outbox values ('01a20a01-8dd8-741e-8799-c66b0ff1bc3e', 1, '01a20a01-8ddc-75f2-80c5-f7430d77bd1b', 'database/password', 1, 1, '2026-11-23 20:03:23.741026+00', 'root');
insert into outbox values ('01a20a01-8dd8-741e-8799-c66b0ff1bc3e', 2, '01a20a01-8ddc-75f2-80c5-f7430d77bd1b', 'database/password', 3, 2, '2026-11-23 20:03:23.744613+00', 'root');
insert into outbox values ('01a20a01-8dd8-741e-8799-c66b0ff1bc3e', 3, '01a20a01-8de3-734f-9d55-38f6aeca5a1d', 'api/token', 1, 1, '2026-11-23 20:03:23.747619+00', 'root');
insert into outbox values ('01a20a01-8dd8-741e-8799-c66b0ff1bc3e', 4, '01a20a01-8de3-734f-9d55-38f6aeca5a1d', 'api/token', 5, 2, '2026-11-23 20:03:23.748871+00', 'root');
insert into outbox values ('01a20a01-8dda-722a-9f63-500c3b8f2436', 1, '01a20a01-8de5-77bf-b6bd-a8b6506b2c40', 'database/host', 1, 1, '2026-11-23 20:03:23.750072+00', 'root');
insert into outbox values ('01a20a01-8dda-722a-9f63-500c3b8f2436', 2, '01a20a01-8de6-7706-a3a4-559fed6bde4b', 'database/port', 1, 1, '2026-11-23 20:03:23.751057+00', 'root');
insert into outbox values ('01a20a01-8dda-722a-9f63-500c3b8f2436', 3, '01a20a01-8de6-7706-a3a4-559fed6bde4b', 'database/port', 2, 2, '2026-11-23 20:03:23.751906+00', 'root');
insert into outbox values ('01a20a01-8dda-722a-9f63-500c3b8f2436', 4, '01a20a01-8de6-7706-a3a4-559fed6bde4b', 'database/port', 4, 3, '2026-11-23 20:03:23.753857+00', 'root');
insert into versions values ('01a20a01-8ddc-75f2-80c5-f7430d77bd1b', '01a20a01-8dd8-741e-8799-c66b0ff1bc3e', 1, false, 1, 1, 1, 1, '', NULL, NULL, NULL, '{}', '2026-11-23 20:03:23.741026+00', 'root', '00000000-0000-78f4-aa7b-69a199a78767', '\x4b010100000001d6895d2b2ce42c9be1f4b8fdaff4ad483a63f3dd70c6503131ad157d95885ce6baee9ef2be21d11609f5');
insert into versions values ('01a20a01-8de3-734f-9d55-38f6aeca5a1d', '01a20a01-8dd8-741e-8799-c66b0ff1bc3e', 1, false, 1, 1, 3, 1, '', NULL, NULL, NULL, '{}', '2026-11-23 20:03:23.747619+00', 'root', '00000000-0000-772b-98bd-9844601fcbff', '\x4b0101000000014d2e6f5715450f716c083dd2f1ec106626a7319be71a11f3ee9c68055a7c21fb40');
insert into versions values ('01a20a01-8de6-7706-a3a4-559fed6bde4b', '01a20a01-8dda-722a-9f63-500c3b8f2436', 1, false, 3, 0, 2, 1, '', NULL, NULL, NULL, '{}', '2026-11-23 20:03:23.751057+00', 'root', '00000000-0000-7cb1-9c13-69b8758cb295', '\x35343332');
insert into versions values ('01a20a01-8de6-7706-a3a4-559fed6bde4b', '01a20a01-8dda-722a-9f63-500c3b8f2436', 2, false, 3, 0, 3, 2, '', NULL, NULL, NULL, '{}', '2026-11-23 20:03:23.751906+00', 'root', '00000000-0000-74fb-8b83-b389b48c0e4b', '\x35343333');
select setval('audit_position', 15, true);
