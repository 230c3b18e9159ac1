-- A database of schema 3: the one of schema 2 after its migration, with a sink.
-- Its master key is the 32 bytes 0123456789abcdef0123456789abcdef.
pragma auto_vacuum = incremental;
pragma application_id = 0x6b764b56;
pragma user_version = 3;
BEGIN TRANSACTION;
CREATE TABLE meta (
    name text not null primary key,
    value text not null
) strict, without rowid;
INSERT INTO meta VALUES('epoch','1b5de037502ac0b4');
INSERT INTO meta VALUES('storage.schema_version','3');
CREATE TABLE namespaces (
    id blob not null primary key,
    application_id text not null,
    name text not null,
    description text not null,
    is_secret integer not null,
    sealing integer not null,
    default_ttl_seconds integer,
    keeps_history integer not null,
    history_limit integer,
    deletion_protection integer not null,
    version integer not null,
    revision integer not null,
    key_generation integer not null,
    seals integer not null,
    version_floor integer not null,
    version_base integer not null default 0,
    changed_at integer not null,
    created_at integer not null,
    created_by text not null,
    updated_at integer not null,
    updated_by text not null,
    deleted_at integer,
    mac blob not null
) strict;
INSERT INTO namespaces VALUES(X'01a207d921097f36ada1b602c57a3300','app-1','production','',1,0,NULL,1,NULL,0,1,4,1,3,0,0,1795428000042000,1795428000012000,'root',1795428000012000,'root',NULL,X'd132945c9d59f9b96618118ea87d7eabb0544955741f797d6011ba7329ce5f27');
INSERT INTO namespaces VALUES(X'01a207d9210f72e795e59584c5b88a6a','app-1','config','plain settings',0,0,NULL,1,20,0,1,4,0,0,0,0,1795428000066000,1795428000018000,'root',1795428000018000,'root',NULL,X'29ec78fda0d258ebfbb81a251b3878916075fef0a5371f540abc3550be8f4e57');
CREATE TABLE entries (
    id blob not null primary key,
    namespace_id blob not null,
    key_path text not null,
    is_tombstone integer not null,    -- 1: deleted or expired
    value_type integer not null,      -- 1 string, 2 json, 3 number, 4 boolean, 5 binary
    key_generation integer not null,  -- 0: the value is plain, otherwise sealed by that data key
    version integer not null,
    revision integer not null,
    reason integer not null,          -- 1 create, 2 update, 3 rotation, 4 rollback, 5 delete, 6 expiry
    comment text not null,
    rolled_back_from integer,
    ttl_seconds integer,
    expires_at integer,
    metadata text not null,
    history_floor integer not null,
    hidden_since integer,
    created_at integer not null,
    created_by text not null,
    updated_at integer not null,
    updated_by text not null,
    request_id text not null,
    has_history integer not null,     -- 1: there are rows in versions
    value blob not null
) strict;
INSERT INTO entries VALUES(X'01a207d9211571249eede327e8fff87a',X'01a207d921097f36ada1b602c57a3300','database/password',0,1,1,2,2,3,'',NULL,NULL,NULL,'{}',0,NULL,1795428000024000,'root',1795428000030000,'root','00000000-0000-7223-aa83-fdd559667f9b',1,X'4b01010000000132fd709596b005d9af8fab58feb3a8a5cc143221e44ab3ea1f18f5c05521157c773b48c435d12a775d7bf9');
INSERT INTO entries VALUES(X'01a207d9212173499a0f18cdebe19227',X'01a207d921097f36ada1b602c57a3300','api/token',1,1,0,2,4,5,'',NULL,NULL,NULL,'{}',0,NULL,1795428000036000,'root',1795428000042000,'root','00000000-0000-7c3c-b7dd-f790987f2467',1,X'');
INSERT INTO entries VALUES(X'01a207d9212d73fabd192e9ebf7977d9',X'01a207d9210f72e795e59584c5b88a6a','database/host',0,1,0,1,1,1,'',NULL,NULL,NULL,'{}',0,NULL,1795428000048000,'root',1795428000048000,'root','00000000-0000-7dd4-a686-40a140b54108',0,X'64622e6578616d706c65');
INSERT INTO entries VALUES(X'01a207d921337ba894cb323cb1e70afa',X'01a207d9210f72e795e59584c5b88a6a','database/port',0,3,0,3,4,4,'',1,NULL,NULL,'{}',0,NULL,1795428000054000,'root',1795428000066000,'root','00000000-0000-7ef8-abc4-c5388a28962b',1,X'35343332');
CREATE TABLE versions (
    entry_id blob not null,
    namespace_id blob not null,
    version integer not null,
    is_tombstone integer not null,
    value_type integer not null,
    key_generation integer not null,
    revision integer not null,
    reason integer not null,
    comment text not null,
    rolled_back_from integer,
    ttl_seconds integer,
    expires_at integer,
    metadata text not null,
    changed_at integer not null,
    changed_by text not null,
    request_id text not null,
    value blob not null,
    primary key (entry_id, version)
) strict;
INSERT INTO versions VALUES(X'01a207d9211571249eede327e8fff87a',X'01a207d921097f36ada1b602c57a3300',1,0,1,1,1,1,'',NULL,NULL,NULL,'{}',1795428000024000,'root','00000000-0000-7ae0-8653-f1b6cc635f46',X'4b0101000000017837eec9710cc06fede0b4f7ac005e28849a4f5bf80ce8f3f5c5641ad385608bdbb563ce6f0d8d101fb7');
INSERT INTO versions VALUES(X'01a207d9212173499a0f18cdebe19227',X'01a207d921097f36ada1b602c57a3300',1,0,1,1,3,1,'',NULL,NULL,NULL,'{}',1795428000036000,'root','00000000-0000-7eaa-a425-fc6cafc23a1c',X'4b010100000001e107a4bb982d7e6cc54f59cc659f3a57e2a119af7a946ffe584c7e91fa1d437334');
INSERT INTO versions VALUES(X'01a207d921337ba894cb323cb1e70afa',X'01a207d9210f72e795e59584c5b88a6a',1,0,3,0,2,1,'',NULL,NULL,NULL,'{}',1795428000054000,'root','00000000-0000-7d68-bf98-f125d959900a',X'35343332');
INSERT INTO versions VALUES(X'01a207d921337ba894cb323cb1e70afa',X'01a207d9210f72e795e59584c5b88a6a',2,0,3,0,3,2,'',NULL,NULL,NULL,'{}',1795428000060000,'root','00000000-0000-7170-bb01-95873069646c',X'35343333');
CREATE TABLE audit (
    position integer not null primary key,
    stream blob not null,
    sequence integer not null,
    at integer not null,
    namespace_id blob,
    entry_id blob,
    key_path text not null,
    action integer not null,          -- 1 read, 2 write, 3 delete, 4 rotate, 5 rollback
    operation text not null,
    user_id text not null,
    credential_id text not null,
    application_id text not null,
    peer text not null,
    request_id text not null,
    success integer not null,
    reason text not null,
    version integer,
    revision integer,
    count integer not null,
    mac blob not null
) strict;
INSERT INTO audit VALUES(1,X'01a209feaad77e3587c23e2c1947ec5c',1,1795428000012000,NULL,NULL,'',2,'audit.open','system','','','','',1,'',NULL,NULL,1,X'f72aa31d2cdc7191a9e44894bf9acdcbafbb15bcfb98a19b4a348a06ab4dd72e');
INSERT INTO audit VALUES(2,X'01a209feaad77e3587c23e2c1947ec5c',2,1795428000012000,X'01a207d921097f36ada1b602c57a3300',NULL,'',2,'namespace.create','root','','app-1','','00000000-0000-7524-9b77-2a9f873639a2',1,'',1,NULL,1,X'774e4a361d518e6ce3c863cd4b565b09f964c971e6d59514b541f375f5291aa1');
INSERT INTO audit VALUES(3,X'01a209feaad77e3587c23e2c1947ec5c',3,1795428000018000,X'01a207d9210f72e795e59584c5b88a6a',NULL,'',2,'namespace.create','root','','app-1','','00000000-0000-7988-b5b4-62eac34ce400',1,'',1,NULL,1,X'1a4b4d85fefbe8be67063ff23e0a08705c3b988df74a2e65fed09819be2ac8b0');
INSERT INTO audit VALUES(4,X'01a209feaad77e3587c23e2c1947ec5c',4,1795428000024000,X'01a207d921097f36ada1b602c57a3300',X'01a207d9211571249eede327e8fff87a','database/password',2,'entry.put','root','','app-1','','00000000-0000-7ae0-8653-f1b6cc635f46',1,'',1,1,1,X'9360dff1fe26874926f51fed30e4c30d8b2acc3ca35eebe45e3edea794c9ce52');
INSERT INTO audit VALUES(5,X'01a209feaad77e3587c23e2c1947ec5c',5,1795428000030000,X'01a207d921097f36ada1b602c57a3300',X'01a207d9211571249eede327e8fff87a','database/password',4,'entry.rotate','root','','app-1','','00000000-0000-7223-aa83-fdd559667f9b',1,'',2,2,1,X'962d5e6c806290c65bb24b719dd2ec229d4323d1bec71a92150dbf9735a6a24f');
INSERT INTO audit VALUES(6,X'01a209feaad77e3587c23e2c1947ec5c',6,1795428000036000,X'01a207d921097f36ada1b602c57a3300',X'01a207d9212173499a0f18cdebe19227','api/token',2,'entry.put','root','','app-1','','00000000-0000-7eaa-a425-fc6cafc23a1c',1,'',1,3,1,X'2f7c41de0d8101f19fff815d38839eb3323b5bae015099dd441a80413d1d2b96');
INSERT INTO audit VALUES(7,X'01a209feaad77e3587c23e2c1947ec5c',7,1795428000042000,X'01a207d921097f36ada1b602c57a3300',X'01a207d9212173499a0f18cdebe19227','api/token',3,'entry.delete','root','','app-1','','00000000-0000-7c3c-b7dd-f790987f2467',1,'',2,4,1,X'4c389ed52899df5c69def32eef85ba8f4ea3ca786824051efba60a54afafcf7b');
INSERT INTO audit VALUES(8,X'01a209feaad77e3587c23e2c1947ec5c',8,1795428000048000,X'01a207d9210f72e795e59584c5b88a6a',X'01a207d9212d73fabd192e9ebf7977d9','database/host',2,'entry.put','root','','app-1','','00000000-0000-7dd4-a686-40a140b54108',1,'',1,1,1,X'258c118eab76d3fd6f3566dfcaeb4218c44bdea4a9b48577f47c249b01a1a9f9');
INSERT INTO audit VALUES(9,X'01a209feaad77e3587c23e2c1947ec5c',9,1795428000054000,X'01a207d9210f72e795e59584c5b88a6a',X'01a207d921337ba894cb323cb1e70afa','database/port',2,'entry.put','root','','app-1','','00000000-0000-7d68-bf98-f125d959900a',1,'',1,2,1,X'c1ebd70da6e4977f5f45342b459c2e8d4d52f4a5c1ef0ec7c4fb59812c7bdecd');
INSERT INTO audit VALUES(10,X'01a209feaad77e3587c23e2c1947ec5c',10,1795428000060000,X'01a207d9210f72e795e59584c5b88a6a',X'01a207d921337ba894cb323cb1e70afa','database/port',2,'entry.put','root','','app-1','','00000000-0000-7170-bb01-95873069646c',1,'',2,3,1,X'4464000407833275a45c277742eb5763f6529212ba4893edaf09c4dab4b7dc60');
INSERT INTO audit VALUES(11,X'01a209feaad77e3587c23e2c1947ec5c',11,1795428000066000,X'01a207d9210f72e795e59584c5b88a6a',X'01a207d921337ba894cb323cb1e70afa','database/port',5,'entry.rollback','root','','app-1','','00000000-0000-7ef8-abc4-c5388a28962b',1,'',3,4,1,X'c1bc35dd17969aa8df36c96daeb8909872491825d07282ede3b97bc7be9a31e2');
INSERT INTO audit VALUES(12,X'01a209feaad77e3587c23e2c1947ec5c',12,1795428000075000,X'01a207d9210f72e795e59584c5b88a6a',X'01a207d9212d73fabd192e9ebf7977d9','database/host',1,'entry.get','root','','app-1','','00000000-0000-79cc-a378-e7c1d4bf5c47',1,'',1,NULL,1,X'f6530b4c8311baf21430e38fee0a8773a9d7831dd01111d1c352706bb9f6f043');
CREATE TABLE audit_heads (
    stream blob not null primary key,
    sequence integer not null,
    mac blob not null,
    closed integer not null
) strict, without rowid;
INSERT INTO audit_heads VALUES(X'01a209feaad77e3587c23e2c1947ec5c',12,X'f6530b4c8311baf21430e38fee0a8773a9d7831dd01111d1c352706bb9f6f043',0);
CREATE TABLE outbox (
    namespace_id blob not null,
    revision integer not null,
    entry_id blob not null,
    key_path text not null,
    kind integer not null,            -- 1 created, 2 updated, 3 rotated, 4 rolled back, 5 deleted, 6 expired, 7 touched
    version integer not null,
    at integer not null,
    user_id text not null,
    primary key (namespace_id, revision)
) strict, without rowid;
INSERT INTO outbox VALUES(X'01a207d921097f36ada1b602c57a3300',1,X'01a207d9211571249eede327e8fff87a','database/password',1,1,1795428000024000,'root');
INSERT INTO outbox VALUES(X'01a207d921097f36ada1b602c57a3300',2,X'01a207d9211571249eede327e8fff87a','database/password',3,2,1795428000030000,'root');
INSERT INTO outbox VALUES(X'01a207d921097f36ada1b602c57a3300',3,X'01a207d9212173499a0f18cdebe19227','api/token',1,1,1795428000036000,'root');
INSERT INTO outbox VALUES(X'01a207d921097f36ada1b602c57a3300',4,X'01a207d9212173499a0f18cdebe19227','api/token',5,2,1795428000042000,'root');
INSERT INTO outbox VALUES(X'01a207d9210f72e795e59584c5b88a6a',1,X'01a207d9212d73fabd192e9ebf7977d9','database/host',1,1,1795428000048000,'root');
INSERT INTO outbox VALUES(X'01a207d9210f72e795e59584c5b88a6a',2,X'01a207d921337ba894cb323cb1e70afa','database/port',1,1,1795428000054000,'root');
INSERT INTO outbox VALUES(X'01a207d9210f72e795e59584c5b88a6a',3,X'01a207d921337ba894cb323cb1e70afa','database/port',2,2,1795428000060000,'root');
INSERT INTO outbox VALUES(X'01a207d9210f72e795e59584c5b88a6a',4,X'01a207d921337ba894cb323cb1e70afa','database/port',4,3,1795428000066000,'root');
CREATE TABLE data_keys (
    purpose integer not null,         -- 1 canary, 2 audit, 3 row mac, 4 token, 5 cursor, 6 data of a namespace
    namespace_id blob not null,
    generation integer not null,
    application_id text not null,
    created_at integer not null,
    wrap_key_id text not null,
    wrap blob not null,
    second_wrap_key_id text not null,
    second_wrap blob not null,
    commitment blob not null,
    primary key (purpose, namespace_id, generation)
) strict, without rowid;
INSERT INTO data_keys VALUES(1,X'00000000000000000000000000000000',1,'',1795428000003000,'32defdc720416a4d',X'570101b7cce4cab661df40fdac3f3936a63abcfe9d6de16d9e66fff7f45a833f6559c2b70c1e448b1ed48b2b1e46c3a77278a0357bbb66516577f198ccc362','',X'',X'12d74e7e8e4aa569ec1e0d70279948c9de10badb97e28535a2dfc275e26f0c6d');
INSERT INTO data_keys VALUES(2,X'00000000000000000000000000000000',1,'',1795428000003000,'32defdc720416a4d',X'5701018405b672bf55a2d2ca974c41e5b88a22626e04aa4ef1e94beacbfdea97b93eea166a736ce069c1a87bd7a51df92bc1855c93037e129a506384a74f08','',X'',X'22efa836fed45af7c5837571237e3337c587a08e3cef58674b07d14c71ac2349');
INSERT INTO data_keys VALUES(3,X'00000000000000000000000000000000',1,'',1795428000003000,'32defdc720416a4d',X'5701016f81a002fe53c4ac694bb2f49310e04aee1de2d7325eae1114850b05cb4360094201049c16d76dfc2f4e35eeb6984045417f58085028942e75f8e3cd','',X'',X'a92a418d191047cb2181fb7327d6c62dc588081ab14606a05d98f8f11ff10cb1');
INSERT INTO data_keys VALUES(4,X'00000000000000000000000000000000',1,'',1795428000003000,'32defdc720416a4d',X'57010182e6d1228a644b71081a043140dd063dcc4b3b62c8fdc7d94471fa0f502e08853fb519eba3370f2d6fe5b72825e43abfef69a4dc5a86c843bb69cff0','',X'',X'e45077505bf9327af4a1cb4e2ebbf326e36190ae85338546a7504c010578d104');
INSERT INTO data_keys VALUES(5,X'00000000000000000000000000000000',1,'',1795428000003000,'32defdc720416a4d',X'570101b50459ced6dcfebc69607e6ca7d340d67feaa4b2719031420ab3931ffc87525e364eb33fbd88d9d65d1f7faab478e2ba5dd9158f5c1f773785c2c1ec','',X'',X'b85875bde02c4bc83f1648631d0557416900b0337dddf5438bf14c6ad6ac46bf');
INSERT INTO data_keys VALUES(6,X'01a207d921097f36ada1b602c57a3300',1,'app-1',1795428000009000,'32defdc720416a4d',X'57010188daae625398710bda09653d34a59e725479bcedccc68ba191b096d37b9f3d4e6e9c831cd188e454835bcc0315639b0f181bb1d8062f3cc37d0fb9b4','',X'',X'd7669bab34109496a6140129f1420c5c87cf313060845655d03c00d963d0c841');
CREATE UNIQUE INDEX namespaces_live on namespaces (application_id, name) where deleted_at is null;
CREATE INDEX namespaces_by_name on namespaces (application_id, name, id);
CREATE INDEX namespaces_deleted on namespaces (application_id, name, id) where deleted_at is not null;
CREATE INDEX namespaces_sealing on namespaces (application_id, name, id) where sealing = 1;
CREATE UNIQUE INDEX entries_by_key on entries (namespace_id, key_path);
CREATE INDEX entries_by_generation on entries (namespace_id, is_tombstone, key_generation);
CREATE INDEX entries_expiring on entries (expires_at, id) where is_tombstone = 0 and expires_at is not null;
CREATE INDEX entries_hidden on entries (hidden_since, id) where hidden_since is not null;
CREATE INDEX entries_forgettable on entries (updated_at, id)
    where is_tombstone = 1 and hidden_since is null and has_history = 0;
CREATE INDEX versions_by_generation on versions (namespace_id, key_generation) where is_tombstone = 0;
create table sinks (
    name text not null primary key,
    registered_at integer not null,
    owner text not null,
    owned_until integer not null,
    owners integer not null
) strict, without rowid;

create table sink_cursors (
    sink text not null,
    namespace_id blob not null,
    application_id text not null,
    revision integer not null,
    primary key (sink, namespace_id)
) strict, without rowid;
create index sink_cursors_by_namespace on sink_cursors (namespace_id, sink);
INSERT INTO sinks VALUES('amqp:kv.events',1700000000000000,'',0,1);
COMMIT;
